"""What the cache keeps of an object to select by, whatever the object says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.api.kinds.resource import look
from cacheserver.api.kinds.table import RESOURCES

_KEPT = [row for row in RESOURCES if row.view is None and not row.virtual]
_ODD: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.text("ab", max_size=2) | st.just(["a"])


@pytest.mark.parametrize("row", _KEPT, ids=[row.plural for row in _KEPT])
@given(data=st.data())
def test_each_field_is_the_text_at_its_path(row: Any, data: st.DataObject) -> None:
    manifest: dict[str, Any] = {"metadata": {}, "spec": {"changes": []}}
    paths = [path for path in (*row.all_selectable, *row.hidden) if path not in {name for name, _, _ in row.several}]
    for path in paths:
        if data.draw(st.booleans(), path):
            at, (*steps, last) = manifest, path.split(".")
            for step in steps:
                at = at.setdefault(step, {})
            at[last] = data.draw(st.text("ab", max_size=2) | _ODD)
    fields, _ = row.projection(manifest, {"a": "a"})
    assert {path: fields[path] for path in paths} == {path: look(manifest, *path.split(".")) for path in paths}
    assert all(type(fields[path]) is str for path in paths)
