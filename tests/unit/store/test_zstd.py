"""A frame is cut behind its blocks, wherever the pieces end that it comes in; so no step unpacks to more than one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import zstandard

from cacheserver.model import Digest
from cacheserver.store.blobs import TURN_BYTES, unpacked
from cacheserver.store.zstd import BLOCK_BYTES, Blocks
from cacheserver.turns import Turns

CONTENTS = {
    "empty": b"",
    "short": b"kind: Package\n",
    "one byte, often": bytes(60 << 20),
    "noise": random.Random(1).randbytes(300_000),
    "text": b"".join(b"line %d of many\n" % i for i in range(60_000)),
}


def frames(content: bytes) -> list[bytes]:
    plain = zstandard.ZstdCompressor(level=3)
    summed = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=False)
    streamed = zstandard.ZstdCompressor(level=3).compressobj()
    return [plain.compress(content), summed.compress(content), streamed.compress(content) + streamed.flush()]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("piece", [7, 4096, 512 << 10])
def test_no_step_unpacks_to_more_than_a_block(content: bytes, piece: int) -> None:
    for frame in frames(content):
        blocks, unpacker, size = Blocks(), zstandard.ZstdDecompressor().decompressobj(), 0
        for at in range(0, len(frame), piece):
            for step in blocks.feed(frame[at : at + piece]):
                out = unpacker.decompress(step)
                assert len(out) <= BLOCK_BYTES
                assert content.startswith(out, size)
                size += len(out)
        assert size == len(content)


@pytest.mark.parametrize("broken", [b"no frame of zstd", b"\x28\xb5\x2f\xfd\x00\x58\xff\xff\xff" + b"x" * 20])
def test_what_is_no_frame_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"frame|block"):
        list(Blocks().feed(broken))


def test_nothing_may_come_behind_the_frame() -> None:
    with pytest.raises(ValueError, match="behind the frame"):
        list(Blocks().feed(zstandard.compress(b"a") + b"more"))


async def test_all_readers_together_are_given_so_much_in_a_turn_of_the_loop() -> None:
    """Each that yields by itself is not enough: 64 of them were 64 times as much before a GET had its next turn."""
    content = CONTENTS["one byte, often"][: 4 << 20]
    frame, turns, given = zstandard.ZstdCompressor().compress(content), Turns(TURN_BYTES), [0]

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield frame

    async def read() -> int:
        size = 0
        async with aclosing(unpacked(Digest("sha256:00"), len(content), chunks(), turns)) as pieces:
            async for piece in pieces:
                size += len(piece)
                given[-1] += len(piece)
        return size

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(32)]
        while not all(reader.done() for reader in readers):
            given.append(0)
            await asyncio.sleep(0)
    assert {reader.result() for reader in readers} == {len(content)}
    assert max(given) <= 2 * TURN_BYTES, "some turns begin before the test's, and end behind it"
