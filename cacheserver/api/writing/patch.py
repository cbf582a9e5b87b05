"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902) on decoded documents. Pure; may take long for large ones."""

from __future__ import annotations

import copy
from typing import Any, Final

import orjson

from cacheserver.api.status import StatusError, bad_request, brief

OPERATIONS_MOST: Final = 10_000
"""k8s.io/apiserver/pkg/endpoints/handlers/patch.go: maxJSONPatchOperations."""
_COPIED_MOST: Final = 32 << 20
"""Bytes that all `copy` of a patch make together: each may double the document."""
_DEPTH_MOST: Final = 200


def merged(target: Any, patch: Any, depth: int = 0) -> Any:
    """RFC 7386, section 2: MergePatch. `target` is left as it is. Raises: StatusError 400."""
    if depth > _DEPTH_MOST:
        raise bad_request("the patch is nested too deep")
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value, depth + 1)
    return result


def patched(target: Any, operations: Any) -> Any:
    """The document after all operations, in order.

    Raises: StatusError 400 for what is no patch, 413 for too long a one, 422 for one that fails.
    """
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    if len(operations) > OPERATIONS_MOST:
        found = len(operations)
        why = f"The allowed maximum operations in a JSON patch is {OPERATIONS_MOST}, got {found}"
        raise StatusError(413, "RequestEntityTooLarge", why)
    # One root above, so that the whole document has a place to stand.
    root = {"": copy.deepcopy(target)}
    room = _COPIED_MOST
    for at, operation in enumerate(operations):
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise bad_request(f"operation {at} of the JSON patch has no path")
        try:
            room -= _apply(root, operation, room)
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise _failed(at, operation, str(exc).strip("'\"")) from None
    return root[""]


def _failed(at: int, operation: dict[str, Any], why: str) -> StatusError:
    said = f"operation {at} ({brief(str(operation.get('op')))} {brief(operation['path'])}): {why}"
    # k8s.io/apimachinery/pkg/api/errors: NewGenericServerResponse for 422
    message = "the server rejected our request due to an error in our request"
    return StatusError(422, "Invalid", f"{message}: {said}", details={})


def _apply(root: dict[str, Any], operation: dict[str, Any], room: int) -> int:
    """Returns bytes that were copied. Raises: KeyError, IndexError, TypeError, ValueError."""
    op, path = operation.get("op"), _pointer(operation["path"])
    if op in ("add", "replace", "test") and "value" not in operation:
        raise ValueError("has no value")
    match op:
        case "add":
            _add(root, path, operation["value"])
        case "replace":
            _take(root, path, remove=False)
            _set(root, path, operation["value"])
        case "remove":
            _take(root, path, remove=True)
        case "test":
            if _take(root, path, remove=False) != operation["value"]:
                raise ValueError("the test failed")
        case "move" | "copy":
            if not isinstance(operation.get("from"), str):
                raise ValueError("has no from")
            source = _pointer(operation["from"])
            if op == "move":
                if path[: len(source)] == source and path != source:
                    raise ValueError("cannot move a value into itself")
                _add(root, path, _take(root, source, remove=True))
                return 0
            value = _take(root, source, remove=False)
            size = len(orjson.dumps(value))
            if size > room:
                raise ValueError("the copies of this patch are too large")
            _add(root, path, copy.deepcopy(value))
            return size
        case _:
            raise ValueError("no such operation")
    return 0


def _pointer(text: str) -> list[str]:
    """RFC 6901, from the root above the document."""
    if text and not text.startswith("/"):
        raise ValueError("a path begins with a slash")
    return ["", *(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])]


def _owner(root: dict[str, Any], path: list[str]) -> Any:
    owner: Any = root
    for step in path[:-1]:
        owner = owner[_index(owner, step)] if isinstance(owner, list) else _member(owner, step)
    return owner


def _member(owner: Any, step: str) -> Any:
    if not isinstance(owner, dict) or step not in owner:
        raise KeyError("there is nothing at this path")
    return owner[step]


def _index(owner: list[Any], step: str, *, end: bool = False) -> int:
    if end and step == "-":
        return len(owner)
    if not step.isascii() or not step.isdigit() or (step != "0" and step.startswith("0")) or len(step) > 9:
        raise ValueError("is no index of a list")
    at = int(step)
    if at >= len(owner) + end:
        raise IndexError("is behind the end of a list")
    return at


def _take(root: dict[str, Any], path: list[str], *, remove: bool) -> Any:
    owner, last = _owner(root, path), path[-1]
    if isinstance(owner, list):
        at = _index(owner, last)
        return owner.pop(at) if remove else owner[at]
    value = _member(owner, last)
    if remove:
        del owner[last]
    return value


def _set(root: dict[str, Any], path: list[str], value: Any) -> None:
    owner, last = _owner(root, path), path[-1]
    if isinstance(owner, list):
        owner[_index(owner, last)] = value
    else:
        owner[last] = value


def _add(root: dict[str, Any], path: list[str], value: Any) -> None:
    owner, last = _owner(root, path), path[-1]
    if isinstance(owner, list):
        owner.insert(_index(owner, last, end=True), value)
    elif isinstance(owner, dict):
        owner[last] = value
    else:
        raise TypeError("there is nothing that could hold this path")
