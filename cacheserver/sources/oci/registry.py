"""Reads one repository of an image registry: digests, manifests, blobs. Never writes to a registry; unpacks nothing.

OCI distribution specification 1.1, pull side. Redirects are followed here, not by aiohttp, so that credentials go to
the registry and nowhere else. A blob is checked against its digest while it comes; a broken download goes on where it
stopped.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import orjson
from yarl import URL

from cacheserver.errors import (
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
    SourceTooLargeError,
)
from cacheserver.security.distrust import remedy
from cacheserver.security.x509 import outgoing_context
from cacheserver.sources.credentials import DockerConfig, scrub
from cacheserver.sources.oci import resolver
from cacheserver.sources.oci.auth import Authorizer, read_challenges
from cacheserver.sources.oci.image import ACCEPT, MAX_DOCUMENT_BYTES, Descriptor, Document
from cacheserver.sources.oci.reference import DIGEST, ImageReference
from cacheserver.sources.oci.retry import retry_after_s
from cacheserver.sources.threads import run_stoppable

_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=30, sock_connect=15, sock_read=30)
_READ_BYTES: Final = 1 << 19
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_MOST_REDIRECTS: Final = 5
_GOOD: Final = {200, 206}
_NONE: Final[frozenset[int]] = frozenset()
_NO_HEAD: Final = frozenset({400, 405})
_NO_RANGE: Final = frozenset({416})
_TRIES: Final = 4
_PATIENCE_S: Final = 10.0  # Ours: a wait longer than this is the caller's to schedule, not ours to sleep through.
_DOWNLOAD_STALLS: Final = 3  # Attempts in a row that bring nothing.
_DOWNLOAD_ATTEMPTS: Final = 50

Sleep = Callable[[float], Awaitable[None]]
Advance = Callable[[int], None]
"""Called with the bytes that came since the last call; negative when a download starts over."""


class Registry:
    """One image's registry. Made cheaply; connects at first use. `aclose` when done.

    ca: PEM certificates trusted besides the system's. insecure: TLS that nobody vouches for is accepted, and plain HTTP
    where there is no TLS. Credentials are used after a challenge only.
    """

    def __init__(
        self,
        reference: ImageReference,
        *,
        credentials: DockerConfig | None = None,
        ca: bytes = b"",
        insecure: bool = False,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.reference = reference
        self._ca = ca
        self._insecure = insecure
        self._sleep = sleep
        self._scheme = "https"
        self._scheme_settled = not insecure
        self._authorizer = Authorizer(reference, credentials or DockerConfig(), insecure)
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """As messages name the image."""
        return str(self.reference)

    async def resolve(self) -> str:
        """The digest that the reference stands for now: one HEAD; nothing at all for a reference by digest."""
        if self.reference.digest:
            return self.reference.digest
        path = f"manifests/{self.reference.tag}"
        async with self._answer("HEAD", path, {"Accept": ACCEPT}, also=_NO_HEAD) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
            if response.status == 200 and DIGEST.match(digest):
                return digest
        # Allowed by the specification: no HEAD digest. Then the manifest itself is the question.
        return (await self.document(self.reference.tag)).digest

    async def document(self, version: str) -> Document:
        """The manifest or index of a tag or digest; a digest's is checked. Raises: SourceError."""
        async with self._answer("GET", f"manifests/{version}", {"Accept": ACCEPT}) as response:
            content = await _read_all(response, MAX_DOCUMENT_BYTES, self.name)
            found = Document(content, response.headers.get("Content-Type", ""))
        if DIGEST.match(version) and found.digest != version:
            raise SourceInvalidError(f"{self.name}: {version} was asked for and {found.digest} came")
        return found

    async def copy(self, blob: Descriptor, into: Path, advance: Advance) -> None:
        """Downloads a blob to the new file `into`; complete and checked when this returns.

        Raises: SourceInvalidError (wrong digest or size), SourceNetworkError, other SourceError.
        """
        download = await asyncio.to_thread(_Download, into, blob)
        stalls = 0
        try:
            for _ in range(_DOWNLOAD_ATTEMPTS):
                before = download.done
                try:
                    await self._receive(download, advance)
                except (aiohttp.ClientError, TimeoutError, ConnectionError, SourceNetworkError) as exc:
                    stalls = 0 if download.done > before else stalls + 1
                    if stalls >= _DOWNLOAD_STALLS:
                        raise self._network_error(exc) from exc
                    await self._sleep(0.2 * 2**stalls)
                    continue
                if download.done == blob.size:
                    download.check(self.name)
                    return
                stalls = 0 if download.done > before else stalls + 1
                if stalls >= _DOWNLOAD_STALLS:
                    break
            raise SourceNetworkError(f"{self.name}: {blob.digest} ends after {download.done} of {blob.size} bytes")
        finally:
            download.file.close()

    async def aclose(self) -> None:
        """Closes its connections; the next question opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _receive(self, download: _Download, advance: Advance) -> None:
        headers = {"Range": f"bytes={download.done}-"} if download.done else {}
        async with self._answer("GET", f"blobs/{download.blob.digest}", headers, also=_NO_RANGE) as response:
            resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(
                f"bytes {download.done}-"
            )
            if download.done and not resumes:
                advance(-download.done)
                await _in_thread(download.restart)
            if response.status not in (200, 206) or (response.status == 206 and not resumes):
                return  # 416, or a range that was not asked for: from the start with the next attempt.
            while chunk := await response.content.read(_READ_BYTES):
                if download.done + len(chunk) > download.blob.size:
                    raise SourceInvalidError(
                        f"{self.name}: {download.blob.digest} is longer than its {download.blob.size} bytes"
                    )
                await _in_thread(functools.partial(download.write, chunk))
                advance(len(chunk))

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], *, also: frozenset[int] = _NONE
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The registry's answer, of status 200, 206 or `also`; logs in and waits as it asks. Raises: SourceError."""
        session = await self._open()
        challenged = False
        for attempt in range(_TRIES):
            async with self._follow(session, method, path, headers) as response:
                ours = self._is_registry(response.url)
                if response.status in _GOOD or response.status in also:
                    yield response
                    return
                if response.status == 401 and ours and not challenged:
                    challenged = True
                    await self._authorizer.answer(
                        session, read_challenges(response.headers.getall("WWW-Authenticate", []))
                    )
                    continue
                wait_s = retry_after_s(response.headers)
                if response.status not in (429, 503) or not 0 < wait_s <= _PATIENCE_S or attempt == _TRIES - 1:
                    raise await self._refusal(response, ours=ours)
            await self._sleep(wait_s)
        raise self._authorizer.refused("keeps asking for authentication")

    @asynccontextmanager
    async def _follow(
        self, session: aiohttp.ClientSession, method: str, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = await self._url(session, path)
        for _ in range(_MOST_REDIRECTS + 1):
            # Blobs are often redirected to a store with signed URLs, which must not see our Authorization.
            sent = dict(headers)
            if self._authorizer.header and self._is_registry(url):
                sent["Authorization"] = self._authorizer.header
            try:
                response = await session.request(method, url, headers=sent, allow_redirects=False)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
                raise self._network_error(exc) from exc
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                async with response:
                    yield response
                return
            response.release()
            url = self._redirected(url, response.headers["Location"])
        raise SourceNetworkError(f"{self.name}: over {_MOST_REDIRECTS} redirects")

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            # encoded: a signed URL must arrive as it was signed.
            target = url.join(URL(location, encoded=True))
        except ValueError as exc:
            raise SourceNetworkError(f"{self.name}: {url.host} redirects to what is not a URL") from exc
        if target.host is None or target.scheme not in ("https", "http"):
            raise SourceNetworkError(f"{self.name}: {url.host} redirects to what is not a URL")
        if target.scheme == "http" and not self._insecure:
            raise SourceNetworkError(f"{self.name}: {url.host} redirects to {target.host} without TLS; not followed")
        return target

    async def _url(self, session: aiohttp.ClientSession, path: str) -> URL:
        if not self._scheme_settled:
            await self._settle_scheme(session)
        return self._base().join(URL(f"/v2/{self.reference.repository}/{path}", encoded=True))

    async def _settle_scheme(self, session: aiohttp.ClientSession) -> None:
        """As Docker does for an insecure registry: TLS if it is spoken there, else plain HTTP."""
        for scheme in ("https", "http"):
            try:
                async with session.get(f"{scheme}://{self.reference.endpoint}/v2/", allow_redirects=False):
                    self._scheme, self._scheme_settled = scheme, True
                    return
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                continue  # Neither: the request itself then says why.

    def _base(self) -> URL:
        return URL(f"{self._scheme}://{self.reference.endpoint}")

    def _is_registry(self, url: URL) -> bool:
        return url.origin() == self._base().origin()

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Loading certificates takes tens of milliseconds.
            trust = await asyncio.to_thread(_tls, self._ca, insecure=self._insecure)
            connector = aiohttp.TCPConnector(limit=4, ssl=trust, resolver=resolver.shared())
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=_TIMEOUT, auto_decompress=False, read_bufsize=_READ_BYTES,
                headers={"User-Agent": "cacheserver", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )  # fmt: skip
        return self._session

    async def _refusal(self, response: aiohttp.ClientResponse, *, ours: bool) -> SourceError:
        status, host = response.status, response.url.host
        said = await _registry_error(response)
        if status in (429, 503):
            wait_s = retry_after_s(response.headers)
            return SourceRateLimitedError(f"{self.name}: {host} asks us to come back later{said}", retry_after_s=wait_s)
        if status in (401, 403) and ours:
            return self._authorizer.refused(f"answered {status}{said}")
        if status == 404 and ours:
            return SourceNotFoundError(f"{self.name} is not there{said}; check the name and the tag")
        return SourceNetworkError(f"{self.name}: {host} answered {status}{said}")

    def _network_error(self, exc: BaseException) -> SourceNetworkError:
        if isinstance(exc, SourceNetworkError):
            return exc
        if isinstance(exc, aiohttp.ClientConnectorCertificateError):
            why = getattr(exc.certificate_error, "verify_message", "") or str(exc.certificate_error)
            given = "the authority that was given did not sign it" if self._ca else "give the authority that signed it"
            reason = f"its certificate is not trusted ({why}); {remedy(why, given)}"
        elif isinstance(exc, TimeoutError):
            reason = "no answer in time"
        else:
            reason = scrub(str(exc)) or type(exc).__name__
        return SourceNetworkError(f"{self.name}: {self.reference.endpoint} cannot be reached: {reason}")


class _Download:
    """A blob on its way to the new file `into`. Everything but `done` blocks."""

    def __init__(self, into: Path, blob: Descriptor) -> None:
        self.blob = blob
        self.done = 0
        self.file = into.open("xb", buffering=0)
        self._hasher = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        try:
            self.file.write(chunk)
        except OSError as exc:
            raise SourceError(f"{self.blob.digest} cannot be written to {self.file.name}: {exc.strerror}") from exc
        self._hasher.update(chunk)
        self.done += len(chunk)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self._hasher = hashlib.sha256()
        self.done = 0

    def check(self, name: str) -> None:
        found = f"sha256:{self._hasher.hexdigest()}"
        if found != self.blob.digest:
            raise SourceInvalidError(f"{name}: blob {self.blob.digest} came as {found}; the registry's copy is damaged")


async def _in_thread(step: Callable[[], None]) -> None:
    # Nothing to stop in one step; cancelled, its end is awaited before the file is closed under it.
    await run_stoppable(threading.Event(), step)


async def _read_all(response: aiohttp.ClientResponse, limit: int, name: str) -> bytes:
    content = bytearray()
    try:
        while chunk := await response.content.read(_READ_BYTES):
            content += chunk
            if len(content) > limit:
                raise SourceTooLargeError(f"{name}: a manifest of over {limit} bytes")
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
        raise SourceNetworkError(f"{name}: the manifest broke off: {scrub(str(exc)) or type(exc).__name__}") from exc
    return bytes(content)


async def _registry_error(response: aiohttp.ClientResponse) -> str:
    """`: CODE message` of a distribution error body, or nothing."""
    try:
        content = await response.content.read(1 << 16)
        error = orjson.loads(content)["errors"][0]
        said = scrub(f"{error['code']} {error.get('message') or ''}")
    except (
        aiohttp.ClientError,
        TimeoutError,
        ConnectionError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ):
        return ""
    return f" ({said[:200]})"


@functools.cache
def _system() -> ssl.SSLContext:
    """The system's authorities, loaded once: one more for each image would be 27 ms and 0.8 MB."""
    return outgoing_context()


def _tls(ca: bytes, *, insecure: bool) -> ssl.SSLContext | bool:
    """Whom to trust, as aiohttp takes it. False: anybody."""
    if insecure:
        return False
    if not ca:
        return _system()
    context = outgoing_context()
    try:
        context.load_verify_locations(cadata=ca.decode())
    except (ssl.SSLError, UnicodeDecodeError) as exc:
        raise SourceError("the certificate authority's file holds no PEM certificate") from exc
    return context
