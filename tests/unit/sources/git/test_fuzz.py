"""Nonsense from a git server or a damaged copy: read as far as it goes, or refused; never a crash or a climbing path.

CACHESERVER_TEST_FUZZ makes it longer (CONTRIBUTING.md).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.errors import SourceError, SourceTooLargeError
from cacheserver.sources.git.complaints import error_for
from cacheserver.sources.git.mirror import _read_refs
from cacheserver.sources.git.objects import ObjectReader, _rows
from cacheserver.sources.tree import Limits
from tests.support.fuzz import FUZZ, within

pytestmark = pytest.mark.processes

OID = "a" * 40
PIECES = st.one_of(
    st.sampled_from(
        [
            *(b"\t", b"\n", b" ", b"\0", b"ref: ", b"HEAD", b"refs/heads/", b"refs/tags/", b"^{}"),
            *(b"..", b"-", b"/", b".git"),
            *(OID.encode(), OID.encode() + b"\trefs/heads/main\n", b"blob", b"missing", b"commit"),
            *(b"5", b"9" * 30, b"-1"),
            *(b"100644 ", b"40000 ", b"160000 ", b"120000 ", b"77777777 ", b"a\0" + b"\x11" * 20),
        ]
    ),
    st.binary(max_size=12),
)  # fmt: skip
CONTENT = st.lists(PIECES, max_size=30).map(b"".join)


@FUZZ
@given(CONTENT)
def test_fuzz_what_a_server_lists(listed: bytes) -> None:
    try:
        refs = _read_refs(listed, Limits(), "https://example.com/x")
    except SourceTooLargeError:
        return
    assert len(refs.oids) <= listed.count(b"\n") + 1 + listed.count(b"\r") + listed.count(b"\x0c") * 3 + len(listed)
    assert refs.object_format in ("", "sha1", "sha256")
    for name in refs.oids:
        refs.commit(name)


@FUZZ
@given(CONTENT, st.sampled_from([20, 32]))
def test_fuzz_trees(content: bytes, name_bytes: int) -> None:
    try:
        rows = _rows(content, name_bytes, most=1000, limits=Limits())
    except SourceError:
        return
    for row in rows:
        assert row.refusal or ("/" not in row.name and row.name not in ("", ".", ".."))
        assert len(row.oid) == 2 * name_bytes


@FUZZ
@given(st.text(max_size=400), st.text(min_size=4, max_size=10))
def test_fuzz_complaints(complaint: str, secret: str) -> None:
    assert (
        secret not in str(error_for(f"{complaint}fatal: {secret}", "where", (secret,))) or secret in "where: git failed"
    )


class _Stdin:
    """Takes everything."""

    def is_closing(self) -> bool:
        return False

    def write(self, _content: bytes) -> None: ...

    async def drain(self) -> None: ...


def answering(content: bytes) -> ObjectReader:
    """A reader whose `git cat-file` prints `content` and ends."""
    stream = asyncio.StreamReader()
    stream.feed_data(content)
    stream.feed_eof()

    async def ended() -> int:
        return 128

    process: Any = SimpleNamespace(stdin=_Stdin(), stdout=stream, wait=ended)

    class Context:
        async def __aenter__(self) -> Any:
            return process

        async def __aexit__(self, *exc: object) -> None: ...

    git: Any = SimpleNamespace(process=lambda *_arguments, **_options: Context())
    return ObjectReader(git, git)


@FUZZ
@given(CONTENT, st.booleans(), st.integers(0, 60))
def test_fuzz_objects(noise: bytes, good: bool, size: int) -> None:
    """What a damaged copy answers is an object of the size it says, or a refusal."""
    head = f"{OID} blob {size}\n".encode() if good else b""

    async def read() -> None:
        reader = answering(head + noise)
        try:
            async with aclosing(reader.read([OID, OID], most_bytes=50)) as objects:
                async for found in objects:
                    assert found.content is None or len(found.content) == found.size
        except SourceError:
            pass
        finally:
            await reader.aclose()

    with within(4 << 20):
        asyncio.run(read())


@pytest.mark.parametrize("line", [b"x" * (1 << 20), b"%s blob 99999999999999999999\n" % OID.encode() + b"x" * 1000])
async def test_an_endless_answer_is_refused_in_bounded_memory(line: bytes) -> None:
    reader = answering(line)
    with within(4 << 20), pytest.raises(SourceError, match=r"cannot be read|has ended"):
        await reader.copy(OID, _nowhere)


async def _nowhere(_piece: bytes) -> None: ...
