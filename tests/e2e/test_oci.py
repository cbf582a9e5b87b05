"""Catalog images from registries: one contract for a real one and a fake, then the faults that only a fake gives."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx

from cacheserver.config import sources as spec
from cacheserver.errors import (
    SourceAuthenticationError,
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
    SourceTooLargeError,
)
from cacheserver.sources import Access, DockerConfig, Limits, Tree, open_source
from cacheserver.sources.oci.reference import ImageReference
from cacheserver.sources.oci.registry import Registry
from cacheserver.sources.oci.source import OCISource
from tests.support.certificates import Authority
from tests.support.registry import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    AnyRegistry,
    BuiltLayer,
    FakeRegistry,
    Image,
    Member,
    RealRegistry,
    catalog_image,
    find_registry,
    gzipped,
    image,
    index,
    layer,
    tar,
    write_layout,
    zstandard_compressed,
)

pytestmark = pytest.mark.e2e

USER, PASSWORD = "puller", "s3cr3t-word"
BCRYPT = "$2b$05$abcdefghijklmnopqrstuu1gnH1w3qtZX3U1O7JEI3HUJtwELxlju"  # of PASSWORD
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
A = Member("configs/foo/catalog.yaml", b"schema: olm.package\nname: foo\n")


@pytest.fixture(scope="session")
def registry_binary() -> Path:
    found = find_registry()
    if isinstance(found, str):
        pytest.skip(f"NO REAL REGISTRY: {found}")
    return found


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    registry = FakeRegistry()
    await registry.start()
    yield registry
    await registry.stop()


@pytest.fixture(params=["fake", "real"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyRegistry]:
    if request.param == "fake":
        stand_in = FakeRegistry()
        await stand_in.start()
        yield stand_in
        await stand_in.stop()
        return
    real = RealRegistry(request.getfixturevalue("registry_binary"), tmp_path / "registry")
    try:
        await real.start()
        yield real
    finally:
        real.stop()


class Puller:
    """Opens sources and fetches each time into a directory of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._count = 0
        self.sources: list[OCISource] = []
        self.waits: list[float] = []

    def source(self, name: str, *, limits: Limits | None = None, access: Access | None = None) -> OCISource:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        access = access or Access()
        reference = ImageReference.parse(name)
        registry = Registry(reference, credentials=access.registry, ca=access.ca, insecure=not access.ca, sleep=sleep)
        made = OCISource(registry, limits)
        self.sources.append(made)
        return made

    async def fetch(self, source: OCISource) -> Tree:
        self._count += 1
        scratch = self._home / f"scratch{self._count}"
        scratch.mkdir()
        return await source.fetch(scratch, lambda _what, _done, _total: None)

    async def pull(self, name: str, *, limits: Limits | None = None, access: Access | None = None) -> dict[str, bytes]:
        return contents(await self.fetch(self.source(name, limits=limits, access=access)))


def contents(tree: Tree) -> dict[str, bytes]:
    assert not any(path.is_symlink() for path in tree.root.rglob("*"))
    return {path: (tree.root / path).read_bytes() for path in tree.files}


@pytest.fixture
async def puller(tmp_path: Path) -> AsyncIterator[Puller]:
    made = Puller(tmp_path)
    yield made
    for source in made.sources:
        await source.aclose()


def docker_config(host: str, **entry: str) -> Access:
    return Access(registry=DockerConfig.parse(orjson.dumps({"auths": {host: entry}})))


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compress", "suffix"),
    [
        (gzipped, "+gzip"),
        (zstandard_compressed, "+zstd"),
        (bytes, ""),
        (zstandard_compressed, "+gzip"),
        (bytes, "+gzip"),
        (gzipped, ""),
    ],
    ids=["gzip", "zstd", "plain", "zstd said gzip", "plain said gzip", "gzip said plain"],
)
async def test_layers_unpack_whatever_their_media_type_says(
    registry: AnyRegistry, puller: Puller, compress: Callable[[bytes], bytes], suffix: str
) -> None:
    await registry.push(image(layer(A, compress=compress, suffix=suffix)), "cat/alog", "v1")
    assert await puller.pull(f"{registry.host}/cat/alog:v1") == {"foo/catalog.yaml": A.content}


async def test_docker_media_types_are_understood(registry: AnyRegistry, puller: Puller) -> None:
    child = image(layer(A), media_type=DOCKER_MANIFEST)
    await registry.push(child, "catalog", "one")
    await registry.push(index([(child, "linux", "amd64")], media_type=DOCKER_LIST), "catalog", "list")
    assert await puller.pull(f"{registry.host}/catalog:one") == await puller.pull(f"{registry.host}/catalog:list")


async def test_layers_apply_in_order_with_whiteouts(registry: AnyRegistry, puller: Puller) -> None:
    base = layer(
        Member("usr/bin/opm", b"binary"), Member("configs/foo/catalog.yaml"), Member("configs/bar/catalog.yaml")
    )
    second = layer(Member("configs/foo/.wh.catalog.yaml"), Member("configs/baz/catalog.yaml", b"z"))
    opaque = layer(Member("configs/.wh..wh..opq"), A)
    await registry.push(image(base, second), "catalog", "two")
    await registry.push(image(base, second, opaque), "catalog", "three")
    assert await puller.pull(f"{registry.host}/catalog:two") == {"bar/catalog.yaml": b"", "baz/catalog.yaml": b"z"}
    assert await puller.pull(f"{registry.host}/catalog:three") == {"foo/catalog.yaml": A.content}


async def test_a_multi_arch_image_is_read_for_amd64_then_the_first_linux(registry: AnyRegistry, puller: Puller) -> None:
    amd, arm, windows = (image(layer(Member("configs/a", name))) for name in (b"amd", b"arm", b"win"))
    both = index([(windows, "windows", "amd64"), (arm, "linux", "arm64"), (amd, "linux", "amd64")])
    await registry.push(both, "catalog", "both")
    await registry.push(index([(windows, "windows", "amd64"), (arm, "linux", "arm64")]), "catalog", "arm")
    await registry.push(index([(windows, "windows", "amd64")]), "catalog", "windows")
    tree = await puller.fetch(puller.source(f"{registry.host}/catalog:both"))
    assert contents(tree) == {"a": b"amd"}
    assert tree.digest == both.digest
    assert await puller.pull(f"{registry.host}/catalog:arm") == {"a": b"arm"}
    with pytest.raises(SourceInvalidError, match="no image for linux"):
        await puller.pull(f"{registry.host}/catalog:windows")


async def test_an_unchanged_tag_costs_one_head(registry: AnyRegistry, puller: Puller) -> None:
    pushed = catalog_image()
    await registry.push(pushed, "catalog", "v1")
    source = puller.source(f"{registry.host}/catalog:v1")
    tree = await puller.fetch(source)
    registry.forget()
    assert await source.probe() == tree.digest == pushed.digest
    assert [request for request in registry.requests() if request[1] != "/v2/"] == [
        ("HEAD", "/v2/catalog/manifests/v1")
    ]


async def test_a_moved_tag_fetches_only_layers_that_are_new_and_hold_the_catalog(
    registry: AnyRegistry, puller: Puller
) -> None:
    opm = layer(Member("bin/opm", b"binary"))
    await registry.push(image(opm, layer(A)), "catalog", "v1")
    source = puller.source(f"{registry.host}/catalog:v1")
    await puller.fetch(source)
    changed = image(opm, layer(Member("configs/foo/catalog.yaml", b"new")))
    await registry.push(changed, "catalog", "v1")
    registry.forget()
    assert contents(await puller.fetch(source)) == {"foo/catalog.yaml": b"new"}
    blobs = [path.rsplit("/", 1)[1] for method, path in registry.requests() if "/blobs/" in path]
    assert sorted(blobs) == sorted(changed.blobs.keys() - {next(d for d, b in changed.blobs.items() if b == opm.blob)})


async def test_a_digest_is_never_asked_for_and_wins_over_a_tag(registry: AnyRegistry, puller: Puller) -> None:
    pushed = catalog_image()
    await registry.push(pushed, "catalog", "v1")
    await registry.push(catalog_image(b"other"), "catalog", "v2")
    source = puller.source(f"{registry.host}/catalog:v2@{pushed.digest}")
    registry.forget()
    assert await source.probe() == pushed.digest
    assert registry.requests() == []
    assert contents(await puller.fetch(source)) == {"foo/catalog.yaml": b"schema: olm.package\nname: foo\n"}


@pytest.mark.parametrize("name", ["catalog:absent", "absent:v1", "catalog@sha256:" + "0" * 64])
async def test_what_is_not_there_is_not_found(registry: AnyRegistry, puller: Puller, name: str) -> None:
    await registry.push(catalog_image(), "catalog", "v1")
    with pytest.raises(SourceNotFoundError, match="is not there"):
        await puller.pull(f"{registry.host}/{name}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "not a catalog image"),
        ({"operators.operatorframework.io.index.database.v1": "/db"}, "sqlite catalog, which is not supported"),
        ({"operators.operatorframework.io.bundle.manifests.v1": "manifests/"}, "is a bundle image"),
        ({"operators.operatorframework.io.index.configs.v1": "/absent"}, "which the image has not as a directory"),
        ({"operators.operatorframework.io.index.configs.v1": "../../etc"}, "leads out of the image"),
    ],
)
async def test_an_image_that_is_no_catalog_is_told_what_it_is(
    registry: AnyRegistry, puller: Puller, labels: dict[str, str], message: str
) -> None:
    await registry.push(image(layer(A), labels=labels), "catalog", "v1")
    with pytest.raises(SourceInvalidError, match=message):
        await puller.pull(f"{registry.host}/catalog:v1")


async def test_hostile_entries_are_contained(registry: AnyRegistry, puller: Puller, tmp_path: Path) -> None:
    device = Member("configs/null", kind=tarfile.CHRTYPE)
    out = Member("configs/out", kind=tarfile.SYMTYPE, target="/etc/passwd")
    hard = Member("configs/hard", kind=tarfile.LNKTYPE, target="configs/foo/catalog.yaml")
    await registry.push(image(layer(A, device, out, hard)), "catalog", "devices")
    await registry.push(image(layer(A, Member("configs/../../evil", b"x"))), "catalog", "traversal")
    await registry.push(image(layer(A, Member("tmp/cache", bytes(80 << 20)))), "catalog", "bomb")
    tree = await puller.fetch(puller.source(f"{registry.host}/catalog:devices"))
    assert contents(tree) == {"foo/catalog.yaml": A.content, "hard": A.content}
    assert dict(tree.refused) == {"null": "is a device", "out": "link leads out of the source's root"}
    with pytest.raises(SourceInvalidError, match="leads out of the image's root"):
        await puller.pull(f"{registry.host}/catalog:traversal")
    assert not list(tmp_path.rglob("evil"))
    with pytest.raises(SourceTooLargeError, match="times its size"):
        await puller.pull(f"{registry.host}/catalog:bomb")


async def test_layers_over_the_cap_are_refused_before_they_are_fetched(registry: AnyRegistry, puller: Puller) -> None:
    await registry.push(image(layer(A, compress=bytes, suffix="")), "catalog", "v1")
    registry.forget()
    with pytest.raises(SourceTooLargeError, match="--max-source-bytes"):
        await puller.pull(f"{registry.host}/catalog:v1", limits=Limits(total_bytes=1000))
    assert sum("/blobs/" in path for _, path in registry.requests()) == 1  # the config


@pytest.mark.parametrize("form", ["directory", "tar"])
async def test_a_layout_gives_what_the_registry_gives(
    registry: AnyRegistry, puller: Puller, tmp_path: Path, form: str
) -> None:
    pushed = index([(image(layer(A, compress=zstandard_compressed, suffix="+zstd")), "linux", "amd64")])
    await registry.push(pushed, "catalog", "v1")
    path = tmp_path / "layout"
    write_layout(path, {"v1": pushed})
    if form == "tar":
        with tarfile.open(tmp_path / "layout.tar", "w") as archive:
            archive.add(path, ".")
        path = tmp_path / "layout.tar"
    source = open_source(spec.OCILayoutSource(path))
    assert isinstance(source, OCISource)
    theirs, ours = await puller.fetch(puller.source(f"{registry.host}/catalog:v1")), await puller.fetch(source)
    assert await source.probe() == ours.digest == theirs.digest
    assert contents(ours) == contents(theirs)


async def test_fetching_never_blocks_the_loop(registry: AnyRegistry, puller: Puller) -> None:
    await registry.push(image(layer(*(Member(f"configs/{n}", bytes(5000)) for n in range(200)))), "catalog", "v1")
    with blockbuster_ctx("cacheserver"):
        assert len(await puller.pull(f"{registry.host}/catalog:v1")) == 200


# --- a real registry's own authentication and TLS -------------------------------------------------------------------


@pytest.fixture
async def start_real(registry_binary: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[RealRegistry]]]:
    started: list[RealRegistry] = []

    async def start(**options: object) -> RealRegistry:
        registry = RealRegistry(registry_binary, tmp_path / f"real{len(started)}", **options)  # type: ignore[arg-type]  # passed through
        started.append(registry)
        await registry.start()
        return registry

    yield start
    for registry in started:
        registry.stop()


async def test_basic_authentication(
    start_real: Callable[..., Awaitable[RealRegistry]], puller: Puller, tmp_path: Path
) -> None:
    (tmp_path / "htpasswd").write_text(f"{USER}:{BCRYPT}\n")
    real = await start_real(
        auth={"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}, authorization=BASIC
    )
    await real.push(catalog_image(), "private/catalog", "v1")
    name = f"{real.host}/private/catalog:v1"
    good = docker_config(f"{real.host}/private", auth=base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    assert await puller.pull(name, access=good)
    with pytest.raises(SourceAuthenticationError, match="give credentials"):
        await puller.pull(name)
    with pytest.raises(SourceAuthenticationError, match="check the credentials") as caught:
        await puller.pull(name, access=docker_config(real.host, username=USER, password="wr0ng-word"))
    assert "wr0ng-word" not in str(caught.value)


async def test_a_blob_damaged_in_the_registrys_storage_is_refused(
    start_real: Callable[..., Awaitable[RealRegistry]], puller: Puller, tmp_path: Path
) -> None:
    real = await start_real()
    pushed = catalog_image()
    await real.push(pushed, "catalog", "v1")
    wanted = orjson.loads(pushed.manifest)["layers"][0]["digest"].removeprefix("sha256:")
    (stored,) = tmp_path.rglob(f"blobs/sha256/{wanted[:2]}/{wanted}/data")
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(SourceInvalidError, match="the registry's copy is damaged"):
        await puller.pull(f"{real.host}/catalog:v1")


async def test_a_token_service(
    start_real: Callable[..., Awaitable[RealRegistry]], puller: Puller, tmp_path: Path
) -> None:
    service = TokenService(tmp_path / "tokens")
    await service.start()
    try:
        auth = {
            "realm": service.realm,
            "service": "registry.test",
            "issuer": "test",
            "rootcertbundle": str(service.certificate),
        }
        real = await start_real(
            auth={"token": auth}, authorization=f"Bearer {service.token('catalog', ['push', 'pull'])}"
        )
        await real.push(catalog_image(), "catalog", "v1")
        name = f"{real.host}/catalog:v1"
        assert await puller.pull(name, access=docker_config(real.host, username=USER, password=PASSWORD))
        assert await puller.pull(name, access=docker_config(real.host, identitytoken="1dent1ty-t0ken"))
        assert {scope for scope, _ in service.asked} == {"repository:catalog:pull"}
        with pytest.raises(SourceAuthenticationError, match="gives no token") as caught:
            await puller.pull(name, access=docker_config(real.host, username=USER, password="wr0ng-word"))
        assert "wr0ng-word" not in str(caught.value)
        with pytest.raises(SourceAuthenticationError):
            await puller.pull(name)
    finally:
        await service.stop()


class TokenService:
    """Gives USER with PASSWORD, or an identity token's bearer, tokens that a docker-registry believes (RS256, x5c)."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._key = home / "key.pem"
        self.certificate = home / "certificate.pem"
        subject = ("-subj", "/CN=tokens", "-days", "1", "-nodes", "-newkey", "rsa:2048")
        command = ["openssl", "req", "-x509", *subject, "-keyout", str(self._key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self.asked: list[tuple[str, str]] = []
        self.realm = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/token", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.realm = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        fields = await request.post() if request.method == "POST" else request.query
        scope = str(fields.get("scope", ""))
        self.asked.append((scope, request.method))
        known = request.headers.get("Authorization") == BASIC or fields.get("refresh_token") == "1dent1ty-t0ken"
        if not known:
            return web.json_response({"details": "who?"}, status=401)
        _, name, actions = scope.split(":")
        token = await asyncio.to_thread(self.token, name, actions.split(","))
        return web.json_response({"access_token" if request.method == "POST" else "token": token})

    def token(self, repository: str, actions: list[str]) -> str:
        certificate = "".join(self.certificate.read_text().splitlines()[1:-1])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        access = [{"type": "repository", "name": repository, "actions": actions}]
        claims = {
            "iss": "test", "sub": USER, "aud": "registry.test", "exp": 4102444800, "nbf": 0, "iat": 0, "jti": "1",
            "access": access,
        }  # fmt: skip
        signed = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        made = subprocess.run(command, input=signed.encode(), check=True, capture_output=True, timeout=60)
        return f"{signed}.{_b64(made.stdout)}"


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def test_tls_with_an_authority_of_ones_own(
    start_real: Callable[..., Awaitable[RealRegistry]], puller: Puller, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    real = await start_real(tls=authority.issue("registry"))
    await real.push(catalog_image(), "catalog", "v1")
    name = f"{real.host}/catalog:v1"
    assert await puller.pull(name, access=Access(ca=authority.certificate.read_bytes()))
    with pytest.raises(SourceNetworkError, match="certificate is not trusted"):
        await puller.pull(name, access=Access(ca=stranger.certificate.read_bytes()))
    assert await puller.pull(name)  # insecure: TLS that nobody vouches for


async def test_a_certificate_that_is_of_no_use_says_what_to_do(
    start_real: Callable[..., Awaitable[RealRegistry]], puller: Puller, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    access = Access(ca=authority.certificate.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("registry"))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.2", 0, ssl=context) as elsewhere:
        port = elsewhere.sockets[0].getsockname()[1]
        with pytest.raises(SourceNetworkError, match=r"IP address mismatch.*not for the name"):
            await puller.pull(f"127.0.0.2:{port}/catalog:v1", access=access)
    ended = await start_real(tls=authority.issue("ended", days=-1))
    with pytest.raises(SourceNetworkError, match=r"certificate has expired.*has ended"):
        await puller.pull(f"{ended.host}/catalog:v1", access=access)


async def test_plain_http_is_spoken_only_on_request(fake: FakeRegistry) -> None:
    await fake.push(catalog_image(), "catalog", "v1")
    source = open_source(spec.OCISource(f"{fake.host}/catalog:v1"))
    try:
        with pytest.raises(SourceNetworkError, match="cannot be reached"):
            await source.probe()
    finally:
        await source.aclose()


# --- faults of the fake ---------------------------------------------------------------------------------------------


Fault = Callable[[web.Request], "web.StreamResponse | None"]


def on_layer(pushed: Image, *faults: Fault) -> Fault:
    """The n-th request for the last layer meets the n-th fault; later ones are served."""
    wanted = orjson.loads(pushed.manifest)["layers"][-1]["digest"]
    left = list(faults)

    def intercept(request: web.Request) -> web.StreamResponse | None:
        return left.pop(0)(request) if left and request.path.endswith(wanted) else None

    return intercept


def break_off(fake: FakeRegistry, at: int) -> Fault:
    """A full Content-Length, and a connection that closes after `at` bytes of what was asked for."""

    def fault(request: web.Request) -> web.StreamResponse:
        whole = fake.blob(request, request.path.rsplit("/", 1)[1])
        assert isinstance(whole.body, bytes)

        class Broken(web.Response):
            async def write_eof(self, data: object = b"") -> None:
                assert request.transport is not None
                await self.write(whole.body[:at])  # type: ignore[index]  # bytes, as asserted
                request.transport.close()

        headers = {key: value for key, value in whole.headers.items() if key == "Content-Range"}
        return Broken(status=whole.status, headers=headers | {"Content-Length": str(len(whole.body))})

    return fault


def big_image() -> Image:
    return image(layer(Member("configs/big", bytes(range(256)) * 8000), compress=bytes, suffix=""))


async def test_a_broken_download_goes_on_where_it_stopped(fake: FakeRegistry, puller: Puller) -> None:
    pushed = big_image()
    await fake.push(pushed, "catalog", "v1")
    fake.intercept = on_layer(pushed, break_off(fake, 700_000), break_off(fake, 600_000))
    assert await puller.pull(f"{fake.host}/catalog:v1") == {"big": bytes(range(256)) * 8000}
    ranges = [headers["Range"] for _, _, headers in fake.seen if "Range" in headers]
    assert len(ranges) == 2
    assert all(one != "bytes=0-" for one in ranges)


async def test_a_registry_without_ranges_is_read_from_the_start(fake: FakeRegistry, puller: Puller) -> None:
    pushed = big_image()
    await fake.push(pushed, "catalog", "v1")
    fake.ranges = False
    fake.intercept = on_layer(pushed, break_off(fake, 700_000))
    assert await puller.pull(f"{fake.host}/catalog:v1") == {"big": bytes(range(256)) * 8000}


async def test_a_download_that_never_moves_is_a_network_error(fake: FakeRegistry, puller: Puller) -> None:
    pushed = big_image()
    await fake.push(pushed, "catalog", "v1")
    fake.intercept = on_layer(pushed, *[break_off(fake, 0)] * 10)
    with pytest.raises(SourceNetworkError):
        await puller.pull(f"{fake.host}/catalog:v1")
    assert len(puller.waits) == 2


@pytest.mark.parametrize("change", [lambda blob: blob[:-1] + b"!", lambda blob: blob + b"more"])
async def test_a_corrupt_blob_is_refused(fake: FakeRegistry, puller: Puller, change: Callable[[bytes], bytes]) -> None:
    pushed = catalog_image()
    await fake.push(pushed, "catalog", "v1")
    wanted = orjson.loads(pushed.manifest)["layers"][0]["digest"]
    fake.blobs[wanted] = change(fake.blobs[wanted])
    with pytest.raises(SourceInvalidError, match=r"copy is damaged|is longer than"):
        await puller.pull(f"{fake.host}/catalog:v1")


async def test_a_wrong_diff_id_is_refused(fake: FakeRegistry, puller: Puller) -> None:
    right = layer(A)
    await fake.push(image(BuiltLayer(right.blob, "sha256:" + "0" * 64)), "catalog", "v1")
    with pytest.raises(SourceInvalidError, match="image's config says"):
        await puller.pull(f"{fake.host}/catalog:v1")


async def test_a_manifest_that_changes_behind_its_digest_is_refused(fake: FakeRegistry, puller: Puller) -> None:
    pushed = catalog_image()
    await fake.push(pushed, "catalog", "v1")
    fake.manifests[f"catalog:{pushed.digest}"] = (pushed.manifest + b" ", pushed.media_type)
    with pytest.raises(SourceInvalidError, match="was asked for and"):
        await puller.pull(f"{fake.host}/catalog:v1")


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(fake: FakeRegistry, puller: Puller, status: int) -> None:
    await fake.push(catalog_image(), "catalog", "v1")
    answers = [web.Response(status=status, headers={"Retry-After": "7"})]
    fake.intercept = lambda request: answers.pop() if answers and "manifests" in request.path else None
    assert await puller.pull(f"{fake.host}/catalog:v1")
    assert puller.waits == [7.0]
    fake.intercept = lambda _request: web.Response(status=status, headers={"Retry-After": "600"})
    with pytest.raises(SourceRateLimitedError) as caught:
        await puller.pull(f"{fake.host}/catalog:v1")
    assert caught.value.retry_after_s == 600
    assert puller.waits == [7.0]


@pytest.mark.parametrize("status", [200, 400, 405])
async def test_a_registry_without_digests_on_head_is_asked_for_the_manifest(
    fake: FakeRegistry, puller: Puller, status: int
) -> None:
    pushed = catalog_image()
    await fake.push(pushed, "catalog", "v1")
    fake.intercept = lambda request: web.Response(status=status) if request.method == "HEAD" else None
    assert await puller.source(f"{fake.host}/catalog:v1").probe() == pushed.digest


async def test_credentials_stay_with_the_registry_when_it_redirects(fake: FakeRegistry, puller: Puller) -> None:
    store = FakeRegistry()
    await store.start()
    try:
        await fake.push(catalog_image(), "catalog", "v1")
        await store.push(catalog_image(), "catalog", "v1")

        def intercept(request: web.Request) -> web.StreamResponse | None:
            if request.headers.get("Authorization") != BASIC:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in request.path:
                return web.Response(status=307, headers={"Location": f"http://{store.host}{request.path}?sig=a%2Fb"})
            return None

        fake.intercept = intercept
        access = docker_config(fake.host, username=USER, password=PASSWORD)
        assert await puller.pull(f"{fake.host}/catalog:v1", access=access)
        assert store.seen
        assert not any("Authorization" in headers for _, _, headers in store.seen)
        store.intercept = lambda _request: web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
        with pytest.raises(SourceNetworkError, match="answered 401") as caught:
            await puller.pull(f"{fake.host}/catalog:v1", access=access)
        assert "sig=" not in str(caught.value)
    finally:
        await store.stop()


async def test_a_redirect_loop_ends(fake: FakeRegistry, puller: Puller) -> None:
    fake.intercept = lambda request: web.Response(status=302, headers={"Location": str(request.url)})
    with pytest.raises(SourceNetworkError, match="over 5 redirects"):
        await puller.pull(f"{fake.host}/catalog:v1")


@pytest.mark.parametrize("location", ["ftp://x/", "file:///etc/passwd", "http://["])
async def test_a_redirect_to_nowhere_is_not_followed(fake: FakeRegistry, puller: Puller, location: str) -> None:
    fake.intercept = lambda request: (
        web.Response(status=302, headers={"Location": location}) if request.path != "/v2/" else None
    )
    with pytest.raises(SourceNetworkError, match="not a URL"):
        await puller.pull(f"{fake.host}/catalog:v1")


@pytest.mark.parametrize(
    ("content", "media_type", "message"),
    [
        (b"not json", "application/vnd.oci.image.manifest.v1+json", "not JSON"),
        (b"[]", "application/vnd.oci.image.manifest.v1+json", "not a JSON object"),
        (b"{}", "application/vnd.oci.image.manifest.v1+json", "no layers"),
        (b'{"manifests":{}}', "application/vnd.oci.image.index.v1+json", "no manifests"),
        (b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (b"{}", "text/html", "media type"),
        (
            b'{"layers":[{"digest":"sha256:../x","size":1}],"config":{}}',
            "application/vnd.oci.image.manifest.v1+json",
            "desc",
        ),
        (b"[" * 100_000, "application/vnd.oci.image.manifest.v1+json", "not JSON"),
    ],
)
async def test_a_manifest_that_is_none_is_refused(
    fake: FakeRegistry, puller: Puller, content: bytes, media_type: str, message: str
) -> None:
    await fake.push(Image(content, media_type), "catalog", "v1")
    with pytest.raises(SourceInvalidError, match=message):
        await puller.pull(f"{fake.host}/catalog:v1")


async def test_a_huge_manifest_is_refused(fake: FakeRegistry, puller: Puller) -> None:
    await fake.push(Image(b" " * (5 << 20), "application/vnd.oci.image.manifest.v1+json"), "catalog", "v1")
    with pytest.raises(SourceTooLargeError, match="over"):
        await puller.pull(f"{fake.host}/catalog:v1")


async def test_a_cancelled_fetch_leaves_nothing_writing(fake: FakeRegistry, puller: Puller) -> None:
    pushed = big_image()
    await fake.push(pushed, "catalog", "v1")
    reached = asyncio.Event()

    def hang(request: web.Request) -> web.StreamResponse | None:
        class Hanging(web.Response):
            async def write_eof(self, data: object = b"") -> None:
                await self.write(b"x" * 1000)
                reached.set()
                await asyncio.Event().wait()

        return Hanging(headers={"Content-Length": "99999"})

    fake.intercept = on_layer(pushed, hang)
    fetching = asyncio.create_task(puller.pull(f"{fake.host}/catalog:v1"))
    await reached.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching


async def test_no_secret_is_shown_by_anything_that_carries_one() -> None:
    access = docker_config("quay.io", username=USER, password=PASSWORD, identitytoken="1dent1ty-t0ken")
    shown = repr(access) + repr(access.registry.for_repository("quay.io", "a/b"))
    assert PASSWORD not in shown
    assert "1dent1ty-t0ken" not in shown
    with pytest.raises(SourceAuthenticationError) as caught:
        DockerConfig.parse(b'{"auths": {"quay.io": {"auth": "' + PASSWORD.encode())
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


# --- layouts --------------------------------------------------------------------------------------------------------


async def test_an_image_of_several_in_a_layout_is_named(puller: Puller, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"v1": catalog_image(b"1"), "example.com/cat:v2": catalog_image(b"2")})
    with pytest.raises(SourceInvalidError, match="holds several images"):
        await open_source(spec.OCILayoutSource(tmp_path / "layout")).probe()
    for name, content in (("v1", b"1"), ("v2", b"2")):
        source = open_source(spec.OCILayoutSource(tmp_path / f"layout:{name}"))
        assert isinstance(source, OCISource)
        assert contents(await puller.fetch(source)) == {"foo/catalog.yaml": content}
    with pytest.raises(SourceNotFoundError, match="named 'v3'"):
        await open_source(spec.OCILayoutSource(tmp_path / "layout:v3")).probe()


async def test_a_damaged_layout_is_refused(puller: Puller, tmp_path: Path) -> None:
    pushed = catalog_image()
    write_layout(tmp_path / "layout", {"": pushed})
    wanted = orjson.loads(pushed.manifest)["layers"][0]["digest"].removeprefix("sha256:")
    blob = tmp_path / "layout" / "blobs" / "sha256" / wanted
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    source = open_source(spec.OCILayoutSource(tmp_path / "layout"))
    assert isinstance(source, OCISource)
    with pytest.raises(SourceInvalidError, match="layout is damaged"):
        await puller.fetch(source)


@pytest.mark.parametrize("content", [b"", b"noise" * 200, gzipped(tar(A)), tar(A)])
async def test_a_file_that_is_no_layout_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "layout.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"layout|compressed"):
        await open_source(spec.OCILayoutSource(tmp_path / "layout.tar")).probe()
