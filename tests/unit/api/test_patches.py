"""JSON patch and JSON merge patch, by the examples of their RFCs."""

from __future__ import annotations

from typing import Any

import pytest

from cacheserver.api.status import StatusError
from cacheserver.api.writing.patch import merged, patched


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_merges(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@pytest.mark.parametrize(
    ("target", "operation", "result"),
    [  # RFC 6902, appendix A
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": "qux"}, {"baz": "qux", "foo": "bar"}),
        ({"foo": ["a", "b"]}, {"op": "add", "path": "/foo/1", "value": "q"}, {"foo": ["a", "q", "b"]}),
        ({"foo": ["a"]}, {"op": "add", "path": "/foo/-", "value": ["b"]}, {"foo": ["a", ["b"]]}),
        ({"a": 1, "b": 2}, {"op": "remove", "path": "/a"}, {"b": 2}),
        ({"a": [1, 2, 3]}, {"op": "remove", "path": "/a/1"}, {"a": [1, 3]}),
        ({"a": 1}, {"op": "replace", "path": "/a", "value": 2}, {"a": 2}),
        ({"a": {"b": 1}, "c": {}}, {"op": "move", "from": "/a/b", "path": "/c/d"}, {"a": {}, "c": {"d": 1}}),
        ({"a": [1, 2, 3]}, {"op": "move", "from": "/a/0", "path": "/a/2"}, {"a": [2, 3, 1]}),
        ({"a": {"b": 1}}, {"op": "copy", "from": "/a", "path": "/c"}, {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a/b": 1, "m~n": 2}, {"op": "test", "path": "/m~0n", "value": 2}, {"a/b": 1, "m~n": 2}),
        ({"a": 1}, {"op": "replace", "path": "", "value": {}}, {}),
    ],
)
def test_a_json_patch_changes(target: Any, operation: Any, result: Any) -> None:
    assert patched(target, [operation]) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/x"},
        {"op": "replace", "path": "/x", "value": 1},
        {"op": "add", "path": "/x/y", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "add", "path": "/l/01", "value": 1},
        {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": "/a"},
        {"op": "move", "from": "/o", "path": "/o/p"},
        {"op": "copy", "path": "/b"},
        {"op": "nonsense", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
    ],
)
def test_a_patch_that_cannot_be_applied_changes_nothing_and_says_which_operation(operation: Any) -> None:
    target = {"a": 1, "l": [1], "o": {}}
    with pytest.raises(StatusError, match="operation 1") as refused:
        patched(target, [{"op": "add", "path": "/new", "value": 1}, operation])
    assert refused.value.code == 422
    assert target == {"a": 1, "l": [1], "o": {}}


def test_a_patch_that_doubles_again_and_again_is_refused() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": f"/a/{n}"} for n in range(64)]
    with pytest.raises(StatusError, match="too large"):
        patched({"a": {"x": "y" * 1000}}, doubling)


@pytest.mark.parametrize("patch", [{}, None, "x", [1], [{"op": "add"}]])
def test_what_is_no_patch_is_a_bad_request(patch: Any) -> None:
    with pytest.raises(StatusError) as refused:
        patched({}, patch)
    assert refused.value.code == 400


def test_a_patch_has_so_many_operations_and_no_more() -> None:
    with pytest.raises(StatusError, match="10000"):
        patched({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)
