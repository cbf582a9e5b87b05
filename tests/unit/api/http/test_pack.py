"""Compressed pieces join to one gzip member, whatever they are and in whatever order."""

from __future__ import annotations

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from cacheserver.api.http.pack import join, member, pack, stored

texts = st.lists(st.binary(min_size=1, max_size=3000) | st.text(min_size=1).map(str.encode), max_size=8)


@given(texts, st.randoms(use_true_random=False), st.binary(max_size=200))
def test_joined_pieces_are_the_gzip_of_the_joined_texts(texts: list[bytes], random: object, head: bytes) -> None:
    pieces = list(zip(texts, pack(texts), strict=True))
    random.shuffle(pieces)  # type: ignore[attr-defined] # a random.Random
    joined = b",".join(text for text, _ in pieces)
    answer = b"".join(member((stored(head), join([piece for _, piece in pieces]), stored(b"]}"))))
    assert gzip.decompress(answer) == head + joined + b"]}"
    assert zlib.decompressobj(31).decompress(answer) == head + joined + b"]}"


def test_a_text_over_one_stored_block_is_stored_in_several() -> None:
    text = bytes(range(256)) * 1000
    assert gzip.decompress(b"".join(member([stored(text)]))) == text
