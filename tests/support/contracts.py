"""What the store promises the watch cache, content its readers, and a source who reads it: claims that the real ones
and their fakes keep.

A fake that promises more than etcd proves nothing about who was tested with it. Each contract is a class of tests over
one fixture, `side`: tests/etcd/test_contracts.py and tests/unit/sources/test_contracts.py have the real sides,
tests/unit/test_fakes.py the fakes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
import pytest

from cacheserver.cache.freshness import Feed
from cacheserver.errors import BlobMissingError, Compacted, SourceError, Unavailable
from cacheserver.model import BlobHead, Digest
from cacheserver.sources import Source, Tree
from cacheserver.store.objects import Change, Changes

WITHIN_S = 15.0
NOWHERE = Digest("sha256:" + "0" * 64)


class FeedSide(Protocol):
    """A feed, and what happens to it. Revisions are those of the writes."""

    feed: Feed

    async def put(self, name: str) -> int: ...
    async def delete(self, name: str) -> int: ...
    async def write_elsewhere(self) -> int: ...
    async def compact(self, revision: int) -> None: ...
    async def go_away(self) -> None: ...


class BlobsSide(Protocol):
    """Content, and what happens to it."""

    async def put(self, content: bytes, media_type: str, files: Mapping[str, int]) -> Digest: ...
    async def lose(self, digest: Digest) -> None: ...
    async def head(self, digest: Digest) -> BlobHead | None: ...
    def read(self, digest: Digest) -> AsyncIterator[bytes]: ...


class SourceSide(Protocol):
    """A source, and what happens to what it reads."""

    source: Source

    async def write(self, files: Mapping[str, bytes]) -> None:
        """There is exactly this from now on."""
        ...

    async def break_off(self) -> None: ...
    async def mend(self) -> None: ...


class FeedContract:
    async def test_a_read_is_everything_as_of_one_revision(self, side: FeedSide) -> None:
        await side.put("a")
        both = await side.put("b")
        one = await side.delete("a")
        assert await _read(side.feed) == ({"b"}, one)
        assert await _read(side.feed, both) == ({"a", "b"}, both)

    async def test_a_read_of_nothing_has_a_revision_to_follow_from(self, side: FeedSide) -> None:
        names, revision = await _read(side.feed)
        assert names == set()
        first = await side.put("a")
        assert [change.mod_revision for change in await _changes(side, revision)] == [first]

    async def test_who_follows_gets_every_change_behind_the_start_once_and_in_order(self, side: FeedSide) -> None:
        start = await side.put("before")
        written = [await side.put("a"), await side.put("b"), await side.delete("a"), await side.delete("before")]
        found = await _changes(side, start)
        assert [change.mod_revision for change in found] == written
        assert [change.value is None for change in found] == [False, False, True, True]
        assert [_name(change) for change in found[:2]] == ["a", "b"]
        assert found[2].key == found[0].key

    async def test_who_follows_hears_of_what_is_written_from_then_on(self, side: FeedSide) -> None:
        start = await side.put("before")
        async with asyncio.timeout(WITHIN_S), side.feed.follow(start) as follower:
            coming = aiter(follower)
            for name in "abc":
                written = await side.put(name)
                news = await _next_with_changes(coming)
                assert [(_name(change), change.mod_revision) for change in news.changes] == [(name, written)]

    async def test_a_tick_moves_who_follows_and_is_no_change(self, side: FeedSide) -> None:
        start = await side.put("before")
        ticked = await side.feed.tick()
        assert ticked > start
        assert await _changes(side, start, until=ticked) == []

    async def test_progress_that_is_asked_for_tells_of_writes_elsewhere(self, side: FeedSide) -> None:
        start = await side.put("before")
        async with asyncio.timeout(WITHIN_S), side.feed.follow(start) as follower:
            if not side.feed.progress_trusted:
                pytest.skip("this etcd's progress is not to be believed (before 3.5.13)")
            elsewhere = await side.write_elsewhere()
            await follower.request_progress()
            async for news in follower:
                assert list(news.changes) == []
                if news.revision >= elsewhere:
                    return
                await follower.request_progress()

    async def test_the_newest_revision_is_never_behind_a_write(self, side: FeedSide) -> None:
        assert await side.feed.current_revision() >= await side.put("a") - 1
        written = await side.write_elsewhere()
        assert await side.feed.current_revision() >= written

    async def test_what_was_compacted_can_be_neither_read_nor_followed(self, side: FeedSide) -> None:
        revisions = [await side.put(name) for name in "abcd"]
        await side.compact(revisions[2])
        with pytest.raises(Compacted):
            await _read(side.feed, revisions[1])
        with pytest.raises(Compacted) as caught:
            await _changes(side, revisions[0])
        assert caught.value.compact_revision == revisions[2]

    async def test_the_oldest_revision_that_is_left_can_be_read_and_followed(self, side: FeedSide) -> None:
        revisions = [await side.put(name) for name in "abcd"]
        await side.compact(revisions[2])
        assert await _read(side.feed, revisions[2]) == ({"a", "b", "c"}, revisions[2])
        assert [change.mod_revision for change in await _changes(side, revisions[1])] == revisions[2:]

    async def test_a_store_that_is_away_says_so_to_everybody(self, side: FeedSide) -> None:
        start = await side.put("a")
        async with asyncio.timeout(WITHIN_S):
            async with side.feed.follow(start) as follower:
                await side.go_away()
                with pytest.raises(Unavailable):
                    async for _ in follower:
                        pass
            with pytest.raises(Unavailable):
                await side.feed.current_revision()
            with pytest.raises(Unavailable):
                await _read(side.feed)
            with pytest.raises(Unavailable):
                async with side.feed.follow(start) as follower:
                    await anext(aiter(follower))


class BlobsContract:
    @pytest.mark.parametrize("size", [0, 1, 3 << 20])
    async def test_content_comes_back_byte_for_byte(self, side: BlobsSide, size: int) -> None:
        content = hashlib.shake_128(b"noise").digest(size)
        digest = await side.put(content, "application/x-tar", {"a": 1, "b": size})
        assert digest == "sha256:" + hashlib.sha256(content).hexdigest()
        assert b"".join([piece async for piece in side.read(digest)]) == content
        head = await side.head(digest)
        assert head == BlobHead(digest, size, "application/x-tar", (("a", 1), ("b", size)))

    async def test_content_that_was_never_there_has_no_head_and_cannot_be_read(self, side: BlobsSide) -> None:
        assert await side.head(NOWHERE) is None
        with pytest.raises(BlobMissingError, match=NOWHERE):
            await anext(side.read(NOWHERE))

    async def test_content_that_went_after_its_head_was_read_is_missing(self, side: BlobsSide) -> None:
        digest = await side.put(b"content", "text/plain", {})
        assert await side.head(digest) is not None
        await side.lose(digest)
        with pytest.raises(BlobMissingError, match=digest):
            await anext(side.read(digest))


async def _read(feed: Feed, revision: int = 0) -> tuple[set[str], int]:
    """The names, and the one revision of all pages."""
    names: set[str] = set()
    revisions = set()
    async for page in feed.read_all(revision):
        names |= {_name(change) for change in page.changes}
        revisions.add(page.revision)
    [read] = revisions
    return names, read


async def _changes(side: FeedSide, after: int, *, until: int = 0) -> list[Change]:
    """All behind `after`, until a follower has reached `until`, or else the store as it is now."""
    until = until or await side.feed.tick()
    found: list[Change] = []
    reached = after
    async with asyncio.timeout(WITHIN_S), side.feed.follow(after) as follower:
        while reached < until:
            async for news in follower:
                found += news.changes
                assert news.revision == 0 or news.revision >= reached
                reached = max(reached, news.revision)
                if reached >= until:
                    break
    return found


async def _next_with_changes(coming: AsyncIterator[Changes]) -> Changes:
    while True:
        news = await anext(coming)
        if news.changes:
            return news


def _name(change: Change) -> str:
    assert change.value is not None
    metadata: dict[str, Any] = orjson.loads(change.value)["metadata"]
    return str(metadata["name"]).rpartition(".")[2]


BEFORE: Mapping[str, bytes] = {"a/catalog.yaml": b"one", "b.json": b"{}"}
CHANGES: Mapping[str, Mapping[str, bytes]] = {
    "content of one length": {"a/catalog.yaml": b"two", "b.json": b"{}"},
    "a name": {"a/catalog.yaml": b"one", "c.json": b"{}"},
    "a directory": {"b/catalog.yaml": b"one", "b.json": b"{}"},
    "one more": {**BEFORE, "c": b""},
    "one less": {"b.json": b"{}"},
}


class SourceContract:
    async def test_what_nobody_changed_has_one_digest(self, side: SourceSide, tmp_path: Path) -> None:
        await side.write(BEFORE)
        digest = await side.source.probe()
        assert await side.source.probe() == digest
        assert (await _fetched(side.source, tmp_path / "1"))[0].digest == digest
        assert (await _fetched(side.source, tmp_path / "2"))[0].digest == digest

    @pytest.mark.parametrize("change", CHANGES)
    async def test_any_change_has_another_digest(self, side: SourceSide, change: str) -> None:
        await side.write(BEFORE)
        digest = await side.source.probe()
        await side.write(CHANGES[change])
        assert await side.source.probe() != digest

    async def test_a_fetch_brings_everything_as_it_is_and_nothing_that_went(
        self, side: SourceSide, tmp_path: Path
    ) -> None:
        for at, files in enumerate((BEFORE, *CHANGES.values())):
            await side.write(files)
            tree, found = await _fetched(side.source, tmp_path / str(at))
            assert tree.files == tuple(sorted(files))
            assert found == files
            assert tree.refused == ()

    async def test_what_cannot_be_read_is_an_error_of_the_source_until_it_can(
        self, side: SourceSide, tmp_path: Path
    ) -> None:
        await side.write(BEFORE)
        digest = await side.source.probe()
        await side.break_off()
        with pytest.raises(SourceError):
            await side.source.probe()
        with pytest.raises(SourceError):
            await _fetched(side.source, tmp_path / "1")
        await side.mend()
        assert await side.source.probe() == digest
        assert (await _fetched(side.source, tmp_path / "2"))[1] == BEFORE


async def _fetched(source: Source, scratch: Path) -> tuple[Tree, dict[str, bytes]]:
    """A tree, and its files as they were before it was closed."""
    scratch.mkdir()
    tree = await source.fetch(scratch, lambda what, done, total: None)
    try:
        return tree, {path: (tree.root / path).read_bytes() for path in tree.files}
    finally:
        await tree.aclose()
