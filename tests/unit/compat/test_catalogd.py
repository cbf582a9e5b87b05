"""catalogd's HTTP API over fakes: what its clients see, and what they cannot do to each other."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson
import pytest
import zstandard

from cacheserver.api import Acceptor, bounded_server
from cacheserver.api.http.budget import Budget
from cacheserver.api.http.connections import ConnectionLimits
from cacheserver.compat.catalogd.bodies import CATALOG_BYTES
from cacheserver.compat.catalogd.door import Catalogd
from cacheserver.compat.catalogd.readers import Readers
from cacheserver.config import Door
from cacheserver.model import RepositoryKey
from tests.fakes.published import NAMESPACE, Published, lines, published
from tests.support.raw_clients import raw_clients
from tests.support.waiting import eventually

Document = Mapping[str, Any]

APP: Sequence[Document] = [
    {"schema": "olm.package", "name": "app", "defaultChannel": "stable", "icon": "x" * 2000},
    {"schema": "olm.channel", "package": "app", "name": "stable", "entries": [{"name": "app.v1"}]},
    {"schema": "olm.bundle", "package": "app", "name": "app.v1", "text": "<&>\u2028"},
    {"schema": "example.note", "package": "app", "name": "app.v1"},
]
DB: Sequence[Document] = [
    {"schema": "olm.package", "name": "db", "defaultChannel": "stable"},
    {"schema": "olm.bundle", "package": "db", "name": "db.v1"},
]
LOOSE: Sequence[Document] = [
    {"schema": "example.note", "text": "of no package"},
    {"schema": "example.note", "package": "gone", "name": "n"},
]
CATALOG = {"app": APP, "db": DB}
ALL = lines([*APP, *DB, *LOOSE])


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class World:
    def __init__(self, catalogs: Published, url: str, session: aiohttp.ClientSession) -> None:
        self.published = catalogs
        self.url = url
        self.session = session

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """path: below /catalogs/, or whole. headers: their names with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}{path if path.startswith('/') else f'/catalogs/{path}'}"
        async with self.session.request(method, url, headers=sent, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@asynccontextmanager
async def served(readers: Readers | None = None) -> AsyncIterator[World]:
    async with published() as catalogs:
        door = Catalogd(catalogs.catalogs, namespace=NAMESPACE, readers=readers)
        acceptor = Acceptor(bounded_server(door.handle, ConnectionLimits()))
        await acceptor.open("127.0.0.1", 0)
        url = f"http://127.0.0.1:{acceptor.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as session:
                yield World(catalogs, url, session)
        finally:
            await acceptor.close(within_s=0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with served() as world:
        world.published.publish("community", CATALOG, LOOSE)
        await world.published.settled()
        yield world


def unzstd(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read()


# --- whole catalogs ---


async def test_all_is_every_document_and_its_headers_say_what_it_is(world: World) -> None:
    answer = await world.get("community/api/v1/all")
    assert (answer.status, answer.body) == (200, ALL)
    assert answer.headers["Content-Type"] == "application/jsonl"
    assert answer.headers["Content-Length"] == str(len(ALL))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Last-Modified"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd", "gzip, zstd"])
@pytest.mark.parametrize("path", ["all", "metas", "metas?package=app"])
async def test_head_has_the_headers_of_get_and_no_body(world: World, encoding: str, path: str) -> None:
    get, head = [
        await world.get(f"community/api/v1/{path}", method, Accept_Encoding=encoding) for method in ("GET", "HEAD")
    ]
    varying = ("Date", "Audit-Id")
    assert {k: v for k, v in get.headers.items() if k not in varying} == {
        k: v for k, v in head.headers.items() if k not in varying
    }
    assert head.body == b""


async def test_packed_bodies_are_the_same_documents(world: World) -> None:
    for path, documents in (("all", ALL), ("metas", ALL), ("metas?package=app", lines(APP[1:]))):
        if len(documents) < 1024:
            continue
        for encoding, unpack in (("gzip", gzip.decompress), ("zstd", unzstd)):
            answer = await world.get(f"community/api/v1/{path}", Accept_Encoding=encoding)
            assert answer.headers["Content-Encoding"] == encoding
            assert answer.headers["Transfer-Encoding"] == "chunked"
            assert "Accept-Ranges" not in answer.headers
            assert unpack(answer.body) == documents


async def test_small_bodies_are_not_packed(world: World) -> None:
    world.published.publish("small", {"db": DB})
    await world.published.settled()
    for path in ("small/api/v1/all", "small/api/v1/metas?name=db.v1", "community/api/v1/metas?package=db"):
        answer = await world.get(path, Accept_Encoding="gzip, zstd")
        assert "Content-Encoding" not in answer.headers
        assert answer.body.startswith(b"{")


async def test_gzip_is_made_once_for_each_package_that_changed(world: World) -> None:
    documents = world.published.documents
    first = await world.get("community/api/v1/all", Accept_Encoding="gzip")
    reads = documents.reads
    assert (await world.get("community/api/v1/all", Accept_Encoding="gzip")).body == first.body
    assert documents.reads == reads
    world.published.publish("community", {**CATALOG, "db": DB[:1]}, LOOSE)
    await world.published.settled()
    changed = await world.get("community/api/v1/all", Accept_Encoding="gzip")
    assert gzip.decompress(changed.body) == lines([*APP, *DB[:1], *LOOSE])
    assert documents.reads == reads + 1


async def test_a_range_is_of_the_documents_whatever_is_accepted(world: World) -> None:
    for first, last in ((0, 9), (2100, len(ALL) - 1), (len(lines(APP)) - 3, len(lines(APP)) + 3)):
        answer = await world.get("community/api/v1/all", Range=f"bytes={first}-{last}", Accept_Encoding="gzip, zstd")
        assert (answer.status, answer.body) == (206, ALL[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(ALL)}"
        assert answer.headers["Content-Length"] == str(last + 1 - first)
        assert "Content-Encoding" not in answer.headers
    behind = await world.get("community/api/v1/all", Range=f"bytes={len(ALL)}-")
    assert (behind.status, behind.headers["Content-Range"]) == (416, f"bytes */{len(ALL)}")
    assert (await world.get("community/api/v1/metas", Range="bytes=0-9")).body == ALL


async def test_an_answer_is_told_apart_by_content_question_and_encoding(world: World) -> None:
    paths = ("all", "metas?package=app", "metas?package=db", "metas?schema=olm.package", "metas?name=app")
    answers = [await world.get(f"community/api/v1/{path}") for path in paths]
    answers.append(await world.get("community/api/v1/all", Accept_Encoding="gzip"))
    tags = [answer.headers["ETag"] for answer in answers]
    assert len(set(tags)) == len(tags)
    for path, tag in zip((*paths, "all"), tags, strict=True):
        same = await world.get(f"community/api/v1/{path}", If_None_Match=tag)
        assert (same.status, same.body) == (304, b"")
        assert "Content-Type" not in same.headers
    world.published.publish("community", CATALOG)
    await world.published.settled()
    for path, tag in zip((*paths, "all"), tags, strict=True):
        assert (await world.get(f"community/api/v1/{path}", If_None_Match=tag)).status == 200


async def test_each_content_has_a_time_of_its_own(world: World) -> None:
    before = await world.get("community/api/v1/all")
    since = before.headers["Last-Modified"]
    assert (await world.get("community/api/v1/all", If_Modified_Since=since)).status == 304
    world.published.publish("community", CATALOG)
    await world.published.settled()
    assert (await world.get("community/api/v1/all", If_Modified_Since=since)).status == 200


# --- questions ---


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        ("", [*APP, *DB, *LOOSE]),
        ("schema=&package=&name=", [*APP, *DB, *LOOSE]),
        ("package=app", APP[1:]),
        ("package=gone", LOOSE[1:]),
        ("package=nothing", []),
        ("schema=olm.package", [APP[0], DB[0]]),
        ("schema=olm.package&name=db", DB[:1]),
        ("schema=olm.package&package=db", []),
        ("schema=example.note", [APP[3], *LOOSE]),
        ("name=app.v1", APP[2:]),
        ("name=app.v1&schema=olm.bundle&package=app", APP[2:3]),
        ("name=app.v1&package=db", []),
        ("package=app&package=db", APP[1:]),
        ("name=" + "n" * 4000, []),
    ],
)
async def test_metas_are_the_documents_that_say_all_of_it(
    world: World, query: str, documents: Sequence[Document]
) -> None:
    for _ in range(2):  # before and after it is known where documents stand
        answer = await world.get(f"community/api/v1/metas?{query}")
        assert (answer.status, answer.body) == (200, lines(documents))
        assert answer.headers["Content-Type"] == "application/jsonl"


async def test_a_question_about_a_package_reads_that_package_alone(world: World) -> None:
    documents = world.published.documents
    await world.get("community/api/v1/metas?package=db&schema=olm.bundle")
    await world.get("community/api/v1/metas?schema=olm.package&name=db")
    assert documents.reads == 1


async def test_a_question_that_was_asked_reads_nothing_until_the_content_changes(world: World) -> None:
    documents = world.published.documents
    first = await world.get("community/api/v1/metas?schema=olm.package")
    world.published.documents.away = True
    assert (await world.get("community/api/v1/metas?schema=olm.package")).body == first.body
    documents.away = False
    world.published.publish("community", {"app": APP})
    await world.published.settled()
    assert (await world.get("community/api/v1/metas?schema=olm.package")).body == lines(APP[:1])


@pytest.mark.parametrize(
    ("path", "method", "status", "text"),
    [
        ("community/api/v1/metas?colour=red", "GET", 400, "400 Bad Request"),
        ("nothing/api/v1/metas?colour=red", "GET", 400, "400 Bad Request"),
        ("community/api/v1/all", "POST", 405, "Method Not Allowed"),
        ("community/api/v1/metas", "DELETE", 405, "Method Not Allowed"),
        ("nothing/api/v1/all", "GET", 404, "404 Not Found"),
        ("nothing/api/v1/metas", "GET", 404, "404 Not Found"),
        ("community/api/v1/all/", "GET", 404, "404 page not found"),
        ("community/api/v1/graphql", "POST", 404, "404 page not found"),
        ("community", "GET", 404, "404 page not found"),
        ("/", "GET", 404, "404 page not found"),
        ("/metrics", "GET", 404, "404 page not found"),
        ("No_pe/api/v1/all", "GET", 400, "invalid catalog name: a lowercase RFC 1123 subdomain must consist of"),
        ("%2e%2e%2fx/api/v1/all", "GET", 400, "invalid catalog name: "),
        ("a" * 254 + "/api/v1/all", "GET", 400, "invalid catalog name: must be no more than 253 characters"),
        ("community/api/v1/metas?" + "a&" * 2100, "GET", 414, "the URL has 4232 characters, at most 4096 are read"),
        ("a/" * 2100, "POST", 414, "the URL has "),
    ],
)
async def test_refusals_are_a_line_of_text(world: World, path: str, method: str, status: int, text: str) -> None:
    answer = await world.get(path, method)
    assert answer.status == status
    assert answer.body.decode().startswith(text)
    assert answer.body.count(b"\n") == 1
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "Allow" not in answer.headers


async def test_a_path_that_is_not_clean_is_redirected(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET //catalogs/x/../community/api/v1/all?a=%0d%0ab HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = (await reader.read()).decode()
    writer.close()
    assert head.startswith("HTTP/1.1 307 ")
    assert "\r\nLocation: /catalogs/community/api/v1/all?a=%0d%0ab\r\n" in head


# --- which catalogs ---


async def test_only_what_names_the_door_is_there_and_at_once(world: World) -> None:
    key = RepositoryKey(NAMESPACE, "community")
    world.published.publish("others", CATALOG, doors=[Door.REGISTRY])
    await world.published.settled()
    assert (await world.get("others/api/v1/all")).status == 404
    world.published.open(RepositoryKey(NAMESPACE, "others"), Door.REGISTRY, Door.CATALOG)
    assert (await world.get("others/api/v1/all")).status == 200
    world.published.open(key)
    assert (await world.get("community/api/v1/all")).status == 404
    world.published.open(key, Door.CATALOG)
    world.published.remove(key)
    assert (await world.get("community/api/v1/all")).status == 404


async def test_a_repository_of_another_namespace_goes_by_both_names(world: World) -> None:
    world.published.publish("community", {"db": DB}, namespace="team")
    await world.published.settled()
    assert (await world.get("community.team/api/v1/all")).body == lines(DB)
    assert (await world.get("community/api/v1/all")).body == ALL
    for name in (f"community.{NAMESPACE}", "community.nobody", "community.team.x"):
        assert (await world.get(f"{name}/api/v1/all")).status == 404


async def test_a_catalog_is_not_called_absent_before_etcd_was_asked() -> None:
    """Clients forget a catalog that is not found."""
    async with published() as catalogs:
        catalogs.records.break_off()
        key = RepositoryKey(NAMESPACE, "community")
        door = Catalogd(catalogs.catalogs, namespace=NAMESPACE)
        acceptor = Acceptor(bounded_server(door.handle, ConnectionLimits()))
        await acceptor.open("127.0.0.1", 0)
        catalogs.configs[key] = Published.config(key, Door.CATALOG)
        async with aiohttp.ClientSession() as session:
            world = World(catalogs, f"http://127.0.0.1:{acceptor.addresses[0][1]}", session)
            early = await world.get("community/api/v1/all")
            assert (early.status, early.headers["Retry-After"]) == (503, "1")
            catalogs.catalogs.note(key)
            await catalogs.catalogs.wait_known()
            assert (await world.get("community/api/v1/all")).status == 404
        await acceptor.close(within_s=0)


async def test_a_catalog_is_not_called_absent_before_the_cluster_said_which_there_are(world: World) -> None:
    listed = False
    door = Catalogd(world.published.catalogs, namespace=NAMESPACE, complete=lambda: listed)
    acceptor = Acceptor(bounded_server(door.handle, ConnectionLimits()))
    await acceptor.open("127.0.0.1", 0)
    early = World(world.published, f"http://127.0.0.1:{acceptor.addresses[0][1]}", world.session)
    assert (await early.get("community/api/v1/all")).status == 200
    assert (await early.get("nothing/api/v1/all")).status == 503
    listed = True
    assert (await early.get("nothing/api/v1/all")).status == 404
    await acceptor.close(within_s=0)


# --- while things happen ---


def large(seed: int, count: int = 2) -> Sequence[Document]:
    """Documents of one package that nothing makes small, 1 MB each: more than is on its way to a client at once."""
    noise = random.Random(seed)
    return [
        {"schema": "olm.bundle", "package": "app", "name": f"v{number}", "x": noise.randbytes(500_000).hex()}
        for number in range(count)
    ]


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd"])
async def test_a_body_is_of_one_revision_whatever_changes_meanwhile(world: World, encoding: str) -> None:
    before, after = {"app": large(1), "db": large(2)}, {"app": large(3), "db": large(4)}
    world.published.publish("community", before)
    await world.published.settled()
    url = f"{world.url}/catalogs/community/api/v1/all"
    async with world.session.get(url, headers={"Accept-Encoding": encoding}) as response:
        begun = await response.content.readexactly(1000)
        world.published.publish("community", after)
        await world.published.settled()
        body = begun + await response.content.read()
    unpacked = gzip.decompress(body) if encoding == "gzip" else unzstd(body) if encoding == "zstd" else body
    assert unpacked == lines([*before["app"], *before["db"]])
    assert (await world.get("community/api/v1/all")).body == lines([*after["app"], *after["db"]])


async def test_documents_that_are_lost_break_a_body_off_and_never_shorten_it(world: World) -> None:
    documents = world.published.documents
    catalog = world.published.publish("community", {"app": large(1), "db": large(2), "web": large(3)})
    await world.published.settled()
    documents.lose(catalog.packages[2].documents)
    for encoding in ("", "gzip", "zstd"):
        with pytest.raises(aiohttp.ClientPayloadError):
            await world.get("community/api/v1/all", Accept_Encoding=encoding)
    catalog = world.published.publish("community", {"app": large(4)})
    await world.published.settled()
    documents.lose(catalog.packages[0].documents)
    for encoding in ("", "gzip", "zstd"):
        answer = await world.get("community/api/v1/all", Accept_Encoding=encoding)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5"), "nothing is out yet"


async def test_what_was_asked_for_is_there_while_etcd_is_away(world: World) -> None:
    for encoding in ("", "gzip", "zstd"):
        await world.get("community/api/v1/all", Accept_Encoding=encoding)
    await world.get("community/api/v1/metas?name=app")
    world.published.documents.away = True
    world.published.records.break_off()
    for encoding in ("", "gzip", "zstd"):
        assert (await world.get("community/api/v1/all", Accept_Encoding=encoding)).status == 200
    assert (await world.get("community/api/v1/metas?name=db.v1")).body == lines(DB[1:])


async def test_what_nobody_asked_for_is_refused_for_now_while_etcd_is_away(world: World) -> None:
    world.published.documents.away = True
    for path in ("all", "metas?name=app"):
        answer = await world.get(f"community/api/v1/{path}")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


async def test_a_catalog_that_stands_for_gigabytes_is_refused_by_name(world: World) -> None:
    catalog = world.published.publish("community", CATALOG)
    packages = [replace(package, size=CATALOG_BYTES) for package in catalog.packages]
    world.published.records.put(replace(catalog, packages=tuple(packages), changed=catalog.changed + 1))
    await world.published.settled()
    answer = await world.get("community/api/v1/all")
    assert answer.status == 500
    assert f"at most {CATALOG_BYTES} are shown" in answer.body.decode()


async def test_readers_who_take_nothing_hold_their_share_and_no_more() -> None:
    """Others are told to come back at once, or read."""
    budget = Budget(8 << 20, each=2 << 20, wait_s=0.05)
    async with served(Readers(budget)) as world:
        world.published.publish("community", {f"p{seed}": large(seed) for seed in range(8)})
        await world.published.settled()
        for encoding, at_once in (("zstd", 8), ("gzip", 8), ("identity", 1)):
            path = "/catalogs/community/api/v1/all"
            asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {encoding}\r\n\r\n"
            async with raw_clients(world.url) as strangers:
                clients = await strangers.send(20, asked)
                codes = [await client.status() for client in clients]
                assert (codes.count(200), codes.count(429)) == (at_once, 20 - at_once)
                assert (await world.get(path, Accept_Encoding=encoding)).status == 200  # of another address
            await eventually(lambda: budget._held == 0)


async def test_who_takes_nothing_makes_room_for_who_finds_none() -> None:
    """However many addresses they have: those of the address with most go first."""
    budget = Budget(2 << 20, each=1 << 20, wait_s=0.05)
    async with served(Readers(budget, slow_s=0.0)) as world, contextlib.AsyncExitStack() as stack:
        world.published.publish("community", {f"p{seed}": large(seed) for seed in range(8)})
        await world.published.settled()
        asked = "GET /catalogs/community/api/v1/all HTTP/1.1\r\nHost: x\r\nAccept-Encoding: zstd\r\n\r\n"
        strangers = []
        for address, count in (("127.0.0.2", 4), ("127.0.0.3", 1), ("127.0.0.4", 3)):
            clients = await stack.enter_async_context(raw_clients(world.url, address=address))
            strangers.append(await clients.send(count, asked))
        for clients_of_one in strangers:
            assert {await client.status() for client in clients_of_one} == {200}
        assert budget._held == 2 << 20
        answer = await world.get("community/api/v1/all", Accept_Encoding="zstd")
        assert answer.status == 200
        await eventually(lambda: budget._held == (2 << 20) - (256 << 10))
        assert [budget._held_by[f"127.0.0.{n}"] >> 18 for n in (2, 3, 4)] == [3, 1, 3]


async def test_documents_of_every_kind_of_text_are_sent_as_they_are_kept(world: World) -> None:
    text = orjson.loads(b'{"schema":"x","package":"odd","name":"\\u2028\\ud83d\\ude00<&>","n":[1,{"schema":"no"}]}')
    world.published.publish("odd", {"odd": [text, {"schema": 7, "package": ["odd"], "name": None}]})
    await world.published.settled()
    assert (await world.get("odd/api/v1/metas?package=odd")).body == lines([text])
    assert (await world.get("odd/api/v1/metas?schema=no")).body == b""
