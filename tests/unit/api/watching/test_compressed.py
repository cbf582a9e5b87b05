"""Watches with gzip: compressed once for all who watch the same, each with a right end of its own; who does not ask for
it gets none. What else such a watch does is tested where watches in chunks are: conftest.py has each test run so, too.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
from yarl import URL

from cacheserver.api.forms import METADATA as METADATA_FORMS
from cacheserver.api.forms import OBJECT
from cacheserver.api.http import pack
from cacheserver.api.http.pack import Packed
from cacheserver.api.selectors import EVERYTHING
from cacheserver.cache.snapshot import Segment
from cacheserver.cache.watchcache import Freshness, ReadAt
from cacheserver.model import Kind
from tests.fakes.api import BASE, METADATA, TABLE, Lines, Unzipped, World, api_world
from tests.support.waiting import eventually

WATCH_LIST = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with api_world() as world:
        world.gzip = True
        yield world


class Packing:
    """What is compressed, text by text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[bytes] = []
        self._pack = pack.pack
        monkeypatch.setattr(pack, "pack", self)

    def __call__(self, texts: Sequence[bytes]) -> list[Packed]:
        self.texts += texts
        return self._pack(texts)


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Packing:
    return Packing(monkeypatch)


async def segments_of(world: World) -> Sequence[Segment]:
    """Of the packages that are there now."""
    page = await world.cache.list(Kind.PACKAGE, ReadAt(Freshness.ANY), selector=EVERYTHING)
    return [run.segment for run in page.runs if run.segment is not None]


async def all_follow(world: World, count: int) -> None:
    await eventually(lambda: world.watches == count)
    (channel,) = (each.channel for each in world.api._watches._channels.values())
    await eventually(lambda: sum(len(a.level) for a in channel._audiences.values()) == count)


@pytest.mark.parametrize("accepts", ["gzip;q=0", "identity", "deflate, br", "x-gzip", "*", ""])
async def test_who_does_not_take_gzip_gets_none(six: World, accepts: str) -> None:
    query = {"watch": "1", "resourceVersion": "16"}
    headers = {"Accept-Encoding": accepts}
    async with six.session.get(f"{BASE}/packages", params=query, headers=headers) as response:
        assert "Content-Encoding" not in response.headers
        six.package("a", revisions=1)
        assert (await Lines(response).next())["type"] == "MODIFIED"


async def test_no_answer_without_chunks_is_compressed(six: World) -> None:
    url = URL(six.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    path = f"{BASE}/packages?watch=1&timeoutSeconds=1"
    writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"Content-Encoding" not in head
    assert body.count(b"}\n") == 6
    writer.close()


async def test_a_crowd_is_sent_what_was_compressed_once(six: World, packing: Packing) -> None:
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(six.watch(resourceVersion="16")) for _ in range(10)]
        await all_follow(six, 10)
        six.package("a", revisions=1)
        first = [await lines.next() for lines in crowd]
        assert first == first[:1] * 10
    assert len(packing.texts) == 1


async def test_what_all_of_many_selections_see_is_compressed_once(six: World, packing: Packing) -> None:
    async with AsyncExitStack() as stack:
        asked = [six.watch(resourceVersion="16", labelSelector=f"no!={number}") for number in range(10)]
        crowd = [await stack.enter_async_context(each) for each in asked]
        await all_follow(six, 10)
        six.package("a", revisions=1)
        assert [(await lines.next())["type"] for lines in crowd] == ["MODIFIED"] * 10
    assert len(packing.texts) == 1


async def test_a_small_event_of_one_watcher_is_stored_and_many_at_once_are_compressed(
    six: World, packing: Packing
) -> None:
    async with six.watch(resourceVersion="16") as lines:
        await all_follow(six, 1)
        six.package("a", revisions=1)
        await lines.next()
        assert packing.texts == []
        for number in range(40):
            six.package("a", description="x" * 2000, revisions=number)
        await lines.take(40)
    assert packing.texts


async def test_members_end_right_whatever_their_clients_began_with_and_saw(six: World) -> None:
    """Every one of them joined the common pieces at another place: their checksums are all different."""
    async with AsyncExitStack() as stack:
        ways: list[dict[str, str]] = [
            {"resourceVersion": "12"},
            {"resourceVersion": "16"},
            {"labelSelector": "cacheserver.dev/package=a"},
            {"fieldSelector": "metadata.namespace=other"},
            {**WATCH_LIST},
            {"accept": TABLE, **WATCH_LIST},
            {"accept": METADATA, **WATCH_LIST},
            {"resourceVersion": "1"},
        ]
        watches = []
        for number in range(24):
            watches.append(await stack.enter_async_context(six.watch(**ways[number % len(ways)])))
            if number % 5 == 0:
                six.package("a", revisions=number)
        for number in range(200):
            six.package("abcdef"[number % 6], description=os.urandom(500).hex(), revisions=number)
        await six.settled()
        await six.api.shut_down(grace_s=0.2)
        for lines in watches:
            assert isinstance(lines, Unzipped)
            await lines.rest()  # fails unless its end is right


async def test_informers_that_begin_at_once_share_what_is_compressed(six: World, packing: Packing) -> None:
    for number in range(100):
        six.package(f"p{number}", description="x" * 1000)
    await six.settled()
    segments = len(await segments_of(six))

    async def begin() -> int:
        async with six.watch(**WATCH_LIST) as lines:
            return len(await lines.take(107))

    assert await asyncio.gather(*(begin() for _ in range(10))) == [107] * 10
    assert len(packing.texts) == segments
    six.package("p50", description="y" * 1000)
    await six.settled()
    await begin()
    assert len(packing.texts) == segments + 1


async def test_what_is_kept_of_beginnings_has_a_bound(six: World, packing: Packing) -> None:
    for number in range(100):
        six.package(f"p{number}", description=os.urandom(500).hex())
    await six.settled()
    beginnings = six.api._watches._shared.beginnings
    beginnings._most = 40_000
    for accept in ("*/*", METADATA, "*/*"):
        async with six.watch(accept=accept, **WATCH_LIST) as lines:
            await lines.take(107)
    kept = [
        len(piece.deflated)
        for segment in await segments_of(six)
        for form in (OBJECT, *METADATA_FORMS.values())
        if (piece := segment.ready.get(("added", form))) is not None
    ]
    assert 0 < sum(kept) <= 40_000
    assert beginnings._bytes <= 40_000


async def test_a_stream_is_whole_at_its_last_byte_and_not_before(six: World) -> None:
    """Read byte by byte, as a slow link brings it: what is broken off anywhere is known for it."""
    async with six.session.get(
        f"{BASE}/packages", params={"watch": "1"}, headers={"Accept-Encoding": "gzip"}
    ) as answer:
        stream = bytearray()
        for expected in (6, 7):
            while zlib.decompressobj(31).decompress(stream).count(b"}\n") < expected:
                stream += await answer.content.readany()
            six.package("a", revisions=1)
        await six.api.shut_down(grace_s=0.1)
        stream += await answer.content.read()
    assert gzip.decompress(stream).count(b"}\n") in (7, 8)  # the last one came before the end, or behind it
    inflate = zlib.decompressobj(31)
    for byte in stream[:-1]:
        inflate.decompress(bytes((byte,)))
        assert not inflate.eof
    inflate.decompress(stream[-1:])
    assert inflate.eof
