"""Documents written again: what indenting costs is known before it is paid."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs.documents.document import JSON, DocumentError, Object
from cacheserver.catalogs.fbc.written import canonical, indented
from cacheserver.catalogs.limits import ParseLimits

VALUES: st.SearchStrategy[JSON] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: JSON) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5))
def test_an_indented_document_is_refused_exactly_where_it_is_over_the_limit(document: Object) -> None:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    for depth in (depth_of(document), ParseLimits().depth):  # of what was read, none is deeper than the limit
        assert indented(document, ParseLimits(document_bytes=(len(text) + 1) // 2, depth=depth)) == text
        with pytest.raises(DocumentError, match="when it is indented"):
            indented(document, ParseLimits(document_bytes=(len(text) - 1) // 2, depth=depth))


def test_a_document_that_nests_deep_is_refused_and_not_written_two_hundred_times_as_large() -> None:
    value: JSON = [1] * 100_000
    for _ in range(150):
        value = [value]
    document: Object = {"value": value}
    assert len(canonical(document)) < 300_000
    with pytest.raises(DocumentError, match=r"30[0-9]{6} bytes when it is indented"):
        indented(document, ParseLimits(document_bytes=1 << 20))
