"""What a document says it is, read off its line: the same whether it is decoded or walked through."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.compat.catalogd import said as reading
from cacheserver.compat.catalogd.said import said

_TEXT = st.text(st.sampled_from('a"\\{}[]:,é\u2028\n\ud7ff') | st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
)
_KEY = st.sampled_from(["schema", "package", "name"]) | _TEXT
DOCUMENT = st.dictionaries(_KEY, _VALUE, max_size=6)


def written(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


@given(DOCUMENT)
def test_a_line_that_is_walked_through_says_the_same(document: dict[str, Any]) -> None:
    line = written(document)
    decoded = said(line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_DECODED_BYTES", 0)
        assert said(line) == decoded


@pytest.mark.parametrize(
    "odd",
    [
        "\\" * 600_001,
        '"' * 600_000,
        '\\"' * 300_001,
        "{[" * 300_000,
        [[]] * 200_000,
        [1] * 300_000,
        [{"name": "other", "schema": "x"}] * 30_000,
    ],
)
def test_a_large_document_says_what_it_says_itself(odd: Any) -> None:
    line = written({"name": 'app."v1\\', "package": "app", "properties": odd, "schema": "olm.bundle", "z": odd})
    assert len(line) > reading._DECODED_BYTES
    assert said(line) == ("olm.bundle", "app", 'app."v1\\')


def test_a_name_that_nobody_can_ask_for_is_none() -> None:
    line = written({"name": "x" * (1 << 20), "package": 7, "schema": "olm.bundle"})
    assert said(line) == ("olm.bundle", "", "")
