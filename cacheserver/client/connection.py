"""How the client asks a server: through the user's own kubectl, or straight where it is given a URL.

No code for credentials is here: exec plugins, proxies, certificates and impersonation are exactly those of the kubectl
that the user has (kubernetes.io, kubectl reference: `get --raw`, `create --raw`, `replace --raw`, `delete --raw`).
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

Object = dict[str, Any]

_TIMEOUT_S: Final = 60.0
"""Ours: git is waited for up to 25 s by the server, with kubectl's start and a slow link before it."""
_LONGEST_ANSWER: Final = 256 << 20
_SAID_BYTES: Final = 64 << 10
_REFUSED: Final = re.compile(r"Error from server(?: \((?P<reason>[A-Za-z]+)\))?: (?P<message>.*)", re.DOTALL)
_NO_CONTEXT: Final = "current-context must exist"


class ClientError(Exception):
    """What the client says on stderr before it ends with 1."""


class RefusedError(ClientError):
    """The server's refusal. reason: as Kubernetes' Status has it (`NotFound`, `Conflict`); empty where it said none."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Connection(Protocol):
    """A server. Paths begin with a slash and may have a query. Raises: RefusedError, ClientError for no answer."""

    @property
    def namespace(self) -> str:
        """Where the user is when nothing else is said."""

    def get(self, path: str) -> bytes:
        """The body."""

    def send(self, verb: str, path: str, body: object = None) -> Object:
        """create, replace or delete; the object of the answer."""


@dataclass(slots=True)
class Kubectl:
    """See the module. flags: of kubectl itself, handed on as they are (`--context`, `--as`, `--kubeconfig`)."""

    flags: Sequence[str] = ()
    command: str = "kubectl"

    @property
    def namespace(self) -> str:
        """Of the user's context; `default` where that has none, as in kubectl."""
        try:
            return self._run("config", "view", "--minify", "-o", "jsonpath={..namespace}").decode().strip() or "default"
        except ClientError as exc:
            if _NO_CONTEXT in str(exc):
                return "default"
            raise

    def get(self, path: str) -> bytes:
        """The body. Raises: RefusedError, ClientError."""
        return self._run("get", "--raw", path)

    def lines(self, path: str) -> Iterator[bytes]:
        """The body as it comes; it waits for as long as nothing does. Raises: RefusedError, ClientError."""
        command = [self.command, "get", "--raw", path, *self.flags]
        try:
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError as exc:
            raise self._missing() from exc
        with running:
            try:
                assert running.stdout is not None
                assert running.stderr is not None
                yield from running.stdout
                said = running.stderr.read(_SAID_BYTES)
            finally:
                running.kill()
        if running.returncode > 0 and said:
            raise _said_by_kubectl(said, running.returncode)

    def send(self, verb: str, path: str, body: object = None) -> Object:
        """The object of the answer. Raises: RefusedError, ClientError."""
        content = () if verb == "delete" else ("-f", "-")
        answer = self._run(verb, "--raw", path, *content, sent=None if verb == "delete" else json.dumps(body).encode())
        return as_object(answer)

    def _run(self, *arguments: str, sent: bytes | None = None) -> bytes:
        command = [self.command, *arguments, *self.flags]
        try:
            done = subprocess.run(command, input=sent or b"", capture_output=True, timeout=_TIMEOUT_S, check=False)
        except FileNotFoundError as exc:
            raise self._missing() from exc
        except subprocess.TimeoutExpired as exc:
            raise ClientError(f"kubectl gave no answer within {_TIMEOUT_S:g} s") from exc
        if done.returncode == 0:
            return done.stdout
        raise _said_by_kubectl(done.stderr, done.returncode)

    def _missing(self) -> ClientError:
        return ClientError(
            f"{self.command} was not found: install kubectl, or give --server URL for a server on this machine"
        )


class Direct:
    """A server by its URL, as on a laptop. token: a bearer token, empty for none. authority: file of whom to trust."""

    namespace = "default"

    def __init__(self, url: str, *, token: str = "", authority: str = "") -> None:
        """Raises: ClientError for what is no URL."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise ClientError(f"--server {url}: {exc}") from exc
        if parts.scheme not in ("http", "https") or not host:
            raise ClientError(f"--server {url}: give it as http://HOST:PORT or https://HOST:PORT")
        if token and parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
            raise ClientError(f"--server {url}: a token goes over https only, or to this machine")
        self._url, self.prefix = url, parts.path.rstrip("/")
        self._host, self._port, self._authority = host, port, authority
        self._secure = parts.scheme == "https"
        self.headers = {"User-Agent": "kubectl-cacheserver"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def open(self) -> http.client.HTTPConnection:
        """A new connection, which connects with its first request. Raises: OSError."""
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._authority or None)
        return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)

    def get(self, path: str) -> bytes:
        """The body. Raises: RefusedError, ClientError."""
        return self._ask("GET", path)

    def lines(self, path: str) -> Iterator[bytes]:
        """The body as it comes; it waits for as long as nothing does. Raises: RefusedError, ClientError."""
        try:
            connection = self.open()
            try:
                connection.request("GET", self.prefix + path, None, {"Accept": "application/json", **self.headers})
                answer = connection.getresponse()
                if answer.status >= 300:
                    raise _refusal(answer.status, answer.read(_SAID_BYTES))
                if connection.sock is not None:
                    connection.sock.settimeout(None)
                yield from answer
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as exc:
            raise ClientError(f"{self._url} gave no answer: {exc}") from exc

    def send(self, verb: str, path: str, body: object = None) -> Object:
        """The object of the answer. Raises: RefusedError, ClientError."""
        method = {"create": "POST", "replace": "PUT", "delete": "DELETE"}[verb]
        return as_object(self._ask(method, path, None if verb == "delete" else json.dumps(body).encode()))

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Accept": "application/json", **self.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection = self.open()
            try:
                connection.request(method, self.prefix + path, body, headers)
                answer = connection.getresponse()
                content = answer.read(_LONGEST_ANSWER + 1)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as exc:
            raise ClientError(f"{self._url} gave no answer: {exc}") from exc
        if len(content) > _LONGEST_ANSWER:
            raise ClientError(f"{self._url}: an answer of over {_LONGEST_ANSWER >> 20} MiB; ask for less")
        if answer.status < 300:
            return content
        raise _refusal(answer.status, content)


def _said_by_kubectl(stderr: bytes, code: int) -> ClientError:
    said = stderr.decode(errors="replace").strip()
    if refused := _REFUSED.search(said):
        return RefusedError(refused["message"].strip(), refused["reason"] or "")
    return ClientError(f"kubectl: {said or f'ended with {code}'}")


def _refusal(status: int, content: bytes) -> RefusedError:
    try:
        said: Mapping[str, Any] = json.loads(content)
        return RefusedError(str(said["message"]), str(said.get("reason", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return RefusedError(f"HTTP {status}: {content[:200].decode(errors='replace')}")


def as_object(answer: bytes) -> Object:
    """What was answered. Raises: ClientError where that is no object, as of a server that is another one."""
    try:
        found = json.loads(answer)
    except ValueError as exc:
        raise ClientError(f"the answer is no JSON, is that a cacheserver? {exc}") from exc
    if not isinstance(found, dict):
        raise ClientError("the answer is no object")
    return found
