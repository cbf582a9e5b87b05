"""What every reader of documents shares: the JSON shape of a value, and the error that rejects one document."""

from __future__ import annotations

import base64
import binascii
import re

import orjson

_TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}

JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | orjson.Fragment | None
"""A document's value. Fragment: a number that Go prints otherwise than orjson would."""

Object = dict[str, JSON]


_LINE_BREAKS = re.compile(r"[\r\n]+")


class DocumentError(Exception):
    """One document cannot be used. Never leaves the worker: it becomes a Finding.

    line: 1-based within the document, 0 when unknown. package: that it names, empty when that cannot be read.
    """

    def __init__(self, reason: str, message: str, *, line: int = 0, package: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.line = line
        self.package = package


class ShapeError(Exception):
    """A field has another JSON type than its schema says; the message names the field."""


def name_of(value: JSON) -> str:
    """The JSON type of `value` as prose: `a string`, `null`."""
    return "null" if value is None else _TYPE_NAMES.get(type(value), "a number")


def field(owner: Object, name: str) -> JSON:
    """The value under `name`, None when absent.

    encoding/json matches field names without regard to case; an exact match is preferred here.
    """
    if name in owner:
        return owner[name]
    folded = name.casefold()
    for key in owner:
        if len(key) == len(name) and key.casefold() == folded:
            return owner[key]
    return None


def text(owner: Object, name: str) -> str:
    """A string field; absent and null are the empty string, as in encoding/json. Raises: ShapeError."""
    value = field(owner, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ShapeError(f"{name} must be a string, not {name_of(value)}")
    return value


def texts(owner: Object, name: str) -> list[str]:
    """A list of strings; absent and null are empty, a null element is the empty string. Raises: ShapeError."""
    found: list[str] = []
    for at, value in enumerate(items(owner, name)):
        if value is not None and not isinstance(value, str):
            raise ShapeError(f"{name}[{at}] must be a string, not {name_of(value)}")
        found.append(value or "")
    return found


def items(owner: Object, name: str) -> list[JSON]:
    """A list field; absent and null are empty. Raises: ShapeError."""
    value = field(owner, name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ShapeError(f"{name} must be a list, not {name_of(value)}")
    return value


def child(owner: Object, name: str) -> Object | None:
    """An object field; None when absent or null. Raises: ShapeError."""
    return as_object(field(owner, name), name)


def as_object(value: JSON, name: str) -> Object | None:
    """`value` as an object; null is None. Raises: ShapeError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ShapeError(f"{name} must be an object, not {name_of(value)}")
    return value


def children(owner: Object, name: str) -> list[Object]:
    """A list of objects; a null element is an empty object, as in encoding/json. Raises: ShapeError."""
    return [as_object(value, f"{name}[{at}]") or {} for at, value in enumerate(items(owner, name))]


def decode_base64(written: str, where: str) -> bytes:
    """Go's StdEncoding: padding required, line breaks skipped, nothing else. Raises: ShapeError."""
    try:
        return base64.b64decode(_LINE_BREAKS.sub("", written).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise ShapeError(f"{where} is not base64: {exc}") from None
