"""Icons and files: bytes exactly, safely, and only when they changed."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile

import pytest

from tests.fakes.api import METADATA, TABLE, World

FILES = {"Kptfile": b"apiVersion: kpt.dev/v1\n", "a/b.bin": b"\xff\x00", "a/c.yaml": "ö: 1\n".encode()}
REVISION = "namespaces/team/packagerevisions/r.app.v1"
RESOURCES = "namespaces/team/packagerevisionresources/r.app.v1"


@pytest.fixture
async def app(world: World) -> World:
    """Revision v1 with FILES, and v2 with nothing."""
    digest = world.blobs.put_files(FILES)
    world.revision("v1", digest, size=4096)
    world.revision("v2")
    await world.settled()
    return world


def _untar(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr] # files


async def test_content_is_a_gzipped_tar_a_tar_or_json(app: World) -> None:
    packed = await app.get(f"{REVISION}/content", accept="application/gzip")
    assert packed.headers["Content-Type"] == "application/gzip"
    assert _untar(gzip.decompress(packed.body)) == FILES
    assert _untar((await app.get(f"{REVISION}/content", accept="application/x-tar")).body) == FILES
    json = (await app.get(f"{REVISION}/content")).json
    assert json["resources"] == {"Kptfile": "apiVersion: kpt.dev/v1\n", "a/c.yaml": "ö: 1\n"}
    assert json["binaryResources"] == {"a/b.bin": base64.b64encode(b"\xff\x00").decode()}
    assert (await app.get(f"{REVISION}/content", accept="image/png")).status == 406


async def test_content_is_sent_once(app: World) -> None:
    first = await app.get(f"{REVISION}/content")
    assert first.headers["ETag"].startswith('"sha256:')
    assert "immutable" in first.headers["Cache-Control"]
    again = await app.get(f"{REVISION}/content", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_a_draft_or_branch_may_change_so_it_is_asked_for_each_time(world: World) -> None:
    world.revision("v1", world.blobs.put_files(FILES), lifecycle="Draft")
    world.revision("v2", world.blobs.put_files(FILES), revisionNumber=-1)
    await world.settled()
    for path in (REVISION, REVISION.replace("v1", "v2")):
        assert (await world.get(f"{path}/content")).headers["Cache-Control"] == "no-cache, private"


async def test_a_published_tag_that_is_no_number_is_kept_by_clients_too(world: World) -> None:
    lock = {"git": {"ref": "infra/app/v3.0.0"}}
    world.revision("v3.0.0", world.blobs.put_files(FILES), revisionNumber=-1, selfLock=lock)
    await world.settled()
    answer = await world.get(f"{REVISION.replace('v1', 'v3.0.0')}/content")
    assert "immutable" in answer.headers["Cache-Control"]


async def test_large_content_streams(world: World) -> None:
    files = {f"f{i}": os.urandom(40_000) for i in range(10)} | {"text": b"line\n" * 100_000}
    world.revision("v1", world.blobs.put_files(files))
    await world.settled()
    answer = await world.get(f"{REVISION}/content", accept="application/gzip")
    assert "Content-Length" not in answer.headers
    assert _untar(gzip.decompress(answer.body)) == files
    got = await world.get(RESOURCES, headers={"Accept-Encoding": "gzip"})
    assert got.headers["Content-Encoding"] == "gzip"
    got.body = gzip.decompress(got.body)
    assert got.json["spec"]["resources"] == {"text": "line\n" * 100_000}
    assert len(got.json["spec"]["binaryResources"]) == 10


LARGE = {
    "a/text": 'ö€𝄞\x00\n"\\'.encode() * 20_000,
    "b/binary": os.urandom(200_001),
    "c/small": b"x: 1\n",
    "d/almost-text": b"a" * 200_000 + b"\xc3",
    "e/other-text": b"b" * (128 << 10) + "ö".encode(),
}


async def test_large_files_are_written_as_small_ones_are(world: World) -> None:
    """They come in parts, which end within a character; what is not text is known at its end."""
    world.revision("v1", world.blobs.put_files(LARGE))
    await world.settled()
    for written in ((await world.get(f"{REVISION}/content")).json, (await world.get(RESOURCES)).json["spec"]):
        assert written["resources"] == {path: LARGE[path].decode() for path in ("a/text", "c/small", "e/other-text")}
        binary = {path: base64.b64decode(text) for path, text in written["binaryResources"].items()}
        assert binary == {path: LARGE[path] for path in ("b/binary", "d/almost-text")}


async def test_nothing_is_read_for_a_head_request(world: World) -> None:
    world.revision("v1", world.blobs.put_files(LARGE))
    await world.settled()
    for path in (f"{REVISION}/content", RESOURCES):
        before = world.blobs.reads
        assert (await world.get(path, method="HEAD")).status == 200
        assert world.blobs.reads == before


async def test_resources_carry_the_files_in_a_get(app: World) -> None:
    got = (await app.get(RESOURCES)).json
    assert (got["kind"], got["metadata"]["name"]) == ("PackageRevisionResources", "r.app.v1")
    assert got["spec"]["packageName"] == "app"
    assert got["spec"]["resources"]["Kptfile"] == "apiVersion: kpt.dev/v1\n"
    assert got["spec"]["binaryResources"] == {"a/b.bin": "/wA="}
    revision = (await app.get(REVISION)).json
    assert got["metadata"]["uid"] != revision["metadata"]["uid"]
    assert got["metadata"]["resourceVersion"] == revision["metadata"]["resourceVersion"]
    assert (await app.get(RESOURCES, pretty="1")).json == got
    assert b"Kptfile: |" in (await app.get(RESOURCES, accept="application/yaml")).body
    empty = (await app.get(RESOURCES.replace("v1", "v2"))).json
    assert empty["spec"]["resources"] == {}


async def test_resources_carry_paths_and_sizes_in_a_list(app: World) -> None:
    for _ in range(2):  # made, then kept
        listed = (await app.get("packagerevisionresources")).json
        first, second = listed["items"]
        assert first["status"]["files"] == [
            {"path": "Kptfile", "size": 23},
            {"path": "a/b.bin", "size": 2},
            {"path": "a/c.yaml", "size": 6},
        ]
        assert "resources" not in first["spec"]
        assert second["status"] == {"digest": ""}


async def test_resources_in_other_forms_need_no_content(app: World) -> None:
    app.blobs.away = True
    rows = (await app.get("packagerevisionresources", accept=TABLE)).json["rows"]
    assert rows[0]["cells"] == ["r.app.v1", "app", "v1", 2, "4.0Ki", "5m"]
    assert (await app.get(RESOURCES, accept=METADATA)).json["kind"] == "PartialObjectMetadata"


async def test_a_store_that_is_away_means_try_again(app: World) -> None:
    app.blobs.away = True
    for path in (RESOURCES, f"{REVISION}/content", "packagerevisionresources"):
        answer = await app.get(path)
        assert (answer.status, answer.json["reason"]) == (503, "ServiceUnavailable")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_lost_content_means_try_again_later(app: World) -> None:
    digest = (await app.get(REVISION)).json["status"]["content"]["digest"]
    app.blobs.lose(digest)
    for path in (RESOURCES, f"{REVISION}/content"):
        answer = await app.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert (await app.get("namespaces/team/packagerevisions/r.app.v2/content")).status == 404


ICON = "namespaces/team/packages/r.quay/icon"


async def test_an_icon_is_served_with_its_type_and_no_trust(world: World) -> None:
    image = b"<svg onload='alert(1)'/>"
    digest = world.blobs.put(image, "image/svg+xml")
    world.package("quay", icon={"digest": digest, "mediaType": "image/svg+xml", "size": len(image)})
    await world.settled()
    answer = await world.get(ICON, accept="image/*")
    assert (answer.status, answer.body) == (200, image)
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = await world.get(ICON, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304


async def test_a_type_that_is_no_image_is_not_repeated(world: World) -> None:
    digest = world.blobs.put(b"<script>", "text/html\r\nX-Evil: 1")
    world.package("quay", icon={"digest": digest})
    await world.settled()
    answer = await world.get(ICON)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "X-Evil" not in answer.headers


async def test_without_an_icon_there_is_a_default_one(world: World) -> None:
    world.package("quay")
    await world.settled()
    answer = await world.get(ICON)
    assert answer.headers["Content-Type"] == "image/svg+xml"
    assert answer.body.startswith(b"<svg")


async def test_head_of_content_has_no_body(app: World) -> None:
    for path in (f"{REVISION}/content", RESOURCES):
        answer = await app.get(path, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
