"""Image registries for tests: images built in memory, a real registry's process, and a fake whose faults a test picks.

The real one is Debian's docker-registry: from PATH, else fetched with apt into ~/.cache/cacheserver-tests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import ssl
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp
import orjson
import zstandard
from aiohttp import web

from tests.support.waiting import eventually

CONFIGS_LABEL = "operators.operatorframework.io.index.configs.v1"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Member:
    """One tar entry; a file unless `kind` says otherwise."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""


def directory(name: str) -> Member:
    return Member(name, kind=tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Member:
    return Member(name, kind=tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> Member:
    return Member(name, kind=tarfile.LNKTYPE, target=target)


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.linkname, entry.size = member.kind, member.target, len(member.content)
            archive.addfile(entry, io.BytesIO(member.content))
    return out.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def zstandard_compressed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(content)


@dataclass(frozen=True)
class BuiltLayer:
    blob: bytes
    diff_id: str
    media_type: str = f"{OCI_LAYER}+gzip"


def layer(*members: Member, compress: Callable[[bytes], bytes] = gzipped, suffix: str = "+gzip") -> BuiltLayer:
    content = tar(*members)
    return BuiltLayer(compress(content), digest_of(content), OCI_LAYER + suffix)


@dataclass(frozen=True)
class Image:
    """manifests: child manifests to push before `manifest`."""

    manifest: bytes
    media_type: str
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    manifests: tuple[tuple[bytes, str], ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def image(*layers: BuiltLayer, labels: Mapping[str, str] | None = None, media_type: str = OCI_MANIFEST) -> Image:
    """An image whose label names /configs, unless `labels` says otherwise."""
    labels = {CONFIGS_LABEL: "/configs"} if labels is None else labels
    config = orjson.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        }
    )
    docker = media_type == DOCKER_MANIFEST
    fields = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(
            config,
            "application/vnd.docker.container.image.v1+json" if docker else "application/vnd.oci.image.config.v1+json",
        ),
        "layers": [
            _descriptor(one.blob, "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else one.media_type)
            for one in layers
        ],
    }
    blobs = {digest_of(config): config} | {digest_of(one.blob): one.blob for one in layers}
    return Image(orjson.dumps(fields), media_type, blobs)


def index(children: Sequence[tuple[Image, str, str]], *, media_type: str = OCI_INDEX) -> Image:
    """A multi-arch index of (image, os, architecture)."""
    manifests = [
        _descriptor(child.manifest, child.media_type) | {"platform": {"os": system, "architecture": architecture}}
        for child, system, architecture in children
    ]
    content = orjson.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
    blobs = {name: blob for child, _, _ in children for name, blob in child.blobs.items()}
    return Image(content, media_type, blobs, tuple((child.manifest, child.media_type) for child, _, _ in children))


def catalog_image(content: bytes = b"schema: olm.package\nname: foo\n") -> Image:
    return image(layer(directory("configs/"), Member("configs/foo/catalog.yaml", content)))


def image_of(
    root: Path,
    *,
    compress: Callable[[bytes], bytes] = gzipped,
    suffix: str = "+gzip",
    media_type: str = OCI_MANIFEST,
) -> Image:
    """The files below `root` as a catalog image, each top directory a layer of its own."""
    layers: dict[str, list[Member]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        layers.setdefault(name.partition("/")[0], [directory("configs/")]).append(
            Member(f"configs/{name}", path.read_bytes())
        )
    return image(*(layer(*m, compress=compress, suffix=suffix) for m in layers.values()), media_type=media_type)


def _descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def write_layout(path: Path, images: Mapping[str, Image]) -> None:
    """An OCI image layout with each image under its name; an empty name gives no annotation."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    manifests = []
    for name, one in images.items():
        contents = [*one.blobs.values(), *(manifest for manifest, _ in one.manifests), one.manifest]
        for content in contents:
            (blobs / digest_of(content).removeprefix("sha256:")).write_bytes(content)
        annotations = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
        manifests.append(_descriptor(one.manifest, one.media_type) | annotations)
    (path / "index.json").write_bytes(orjson.dumps({"schemaVersion": 2, "manifests": manifests}))


class AnyRegistry(Protocol):
    """What both registries do for a test. requests: (method, path) of every request since `forget`."""

    @property
    def host(self) -> str: ...

    async def push(self, image: Image, repository: str, tag: str) -> None: ...

    def requests(self) -> list[tuple[str, str]]: ...

    def forget(self) -> None: ...


Handler = Callable[[web.Request], "web.StreamResponse | None"]


async def _last_of_its_connection(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()


class FakeRegistry:
    """Serves what was pushed. `intercept` may answer a request in its place; headers seen are kept in `seen`."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.intercept: Handler = lambda _request: None
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.ranges = True
        self._runner: web.AppRunner | None = None
        self.host = ""

    async def start(self, tls: tuple[Path, Path] | None = None) -> None:
        """tls: certificate and key; without, it speaks plain HTTP."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        context = None
        if tls is not None:
            # No connection is idle when it stops: TLS says goodbye in steps, which a loop that ends would not take.
            app.on_response_prepare.append(_last_of_its_connection)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def push(self, image: Image, repository: str, tag: str) -> None:
        self.blobs.update(image.blobs)
        for content, media_type in (*image.manifests, (image.manifest, image.media_type)):
            self.manifests[f"{repository}:{digest_of(content)}"] = (content, media_type)
        self.manifests[f"{repository}:{tag}"] = (image.manifest, image.media_type)

    def requests(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.seen if path != "/v2/"]

    def forget(self) -> None:
        self.seen.clear()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, dict(request.headers)))
        answer = self.intercept(request)
        if answer is not None:
            return answer
        if found := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", request.path):
            return self._manifest(f"{found[1]}:{found[2]}")
        if found := re.fullmatch(r"/v2/(.+)/blobs/([^/]+)", request.path):
            return self.blob(request, found[2])
        return web.Response(status=200 if request.path == "/v2/" else 404)

    def _manifest(self, key: str) -> web.Response:
        if key not in self.manifests:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no"}]}, status=404)
        content, media_type = self.manifests[key]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(content)}
        return web.Response(body=content, headers=headers)

    def blob(self, request: web.Request, digest: str) -> web.Response:
        content = self.blobs.get(digest)
        if content is None:
            return web.Response(status=404)
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked and self.ranges:
            start = int(asked[1])
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return web.Response(status=206, body=content[start:], headers=headers)
        return web.Response(body=content)


def find_registry() -> Path | str:
    """The real registry's binary, or why there is none."""
    if found := shutil.which("docker-registry") or shutil.which("registry"):
        return Path(found)
    cached = Path.home() / ".cache" / "cacheserver-tests"
    binary = cached / "usr" / "bin" / "docker-registry"
    if binary.exists():
        return binary
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return "docker-registry is not on PATH, and there is no apt to fetch it with"
    cached.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run(
        ["apt-get", "download", "docker-registry"], cwd=cached, capture_output=True, text=True, timeout=120, check=False
    )
    packages = sorted(cached.glob("docker-registry_*.deb"))
    if fetched.returncode != 0 or not packages:
        return f"apt-get download docker-registry failed: {fetched.stderr.strip()[-200:]}"
    subprocess.run(["dpkg", "-x", packages[-1], cached], check=True, timeout=60)
    packages[-1].unlink()
    return binary


class RealRegistry:
    """A docker-registry process with its own storage. auth: its `auth` section. tls: (certificate, key)."""

    def __init__(
        self,
        binary: Path,
        home: Path,
        *,
        auth: object = None,
        tls: tuple[Path, Path] | None = None,
        authorization: str = "",
    ) -> None:
        self._binary = binary
        self._home = home
        self._log = home / "log"
        self._authorization = authorization
        self._tls = tls
        self._forgotten = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.host = ""
        http: dict[str, object] = {"addr": "127.0.0.1:0"}
        if tls:
            http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "fields": {"service": "test"}},
            "storage": {"filesystem": {"rootdirectory": str(home / "storage")}},
            "http": http,
        }
        if auth is not None:
            config["auth"] = auth
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.json").write_bytes(orjson.dumps(config))  # JSON is YAML.

    async def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._binary, "serve", self._home / "config.json"], stdout=log, stderr=log, env={"PATH": os.defpath}
            )

        def listening() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            return re.search(r"listening on 127\.0\.0\.1:\d+", self._log.read_text()) is not None

        await eventually(listening)
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", self._log.read_text())
        assert found
        self.host = found[1]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    async def push(self, image: Image, repository: str, tag: str) -> None:
        scheme = "https" if self._tls else "http"
        base = f"{scheme}://{self.host}/v2/{repository}"
        headers = {"Authorization": self._authorization} if self._authorization else {}
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(headers=headers, connector=connector, raise_for_status=True) as session:
            for digest, blob in image.blobs.items():
                async with session.post(f"{base}/blobs/uploads/") as begun:
                    location = begun.headers["Location"]
                async with session.put(
                    f"{location}&digest={digest}", data=blob, headers={"Content-Type": "application/octet-stream"}
                ):
                    pass
            for content, media_type in image.manifests:
                async with session.put(
                    f"{base}/manifests/{digest_of(content)}", data=content, headers={"Content-Type": media_type}
                ):
                    pass
            async with session.put(
                f"{base}/manifests/{tag}", data=image.manifest, headers={"Content-Type": image.media_type}
            ):
                pass

    def requests(self) -> list[tuple[str, str]]:
        return self._logged()[self._forgotten :]

    def forget(self) -> None:
        self._forgotten = len(self._logged())

    def _logged(self) -> list[tuple[str, str]]:
        return re.findall(r'"(GET|HEAD|POST|PUT|PATCH) (/v2/[^ "]+) HTTP', self._log.read_text())
