"""What objects have alike, kept in memory once, and what they say twice, kept once: half a kilobyte of each.

Pure. Called by watchcache, for every object that it reads; nothing here is ever told to a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from cacheserver.cache.snapshot import Name
from cacheserver.catalogs.bounds import PROVIDED
from cacheserver.model import Kind
from cacheserver.store.keys import SERVED

_ALIKE: Final = 256  # of what is looked up so that equal values are one: those of a few neighbours
_TEXTS: Final = 1024  # of all objects before it: those of some hundred
_APIS: Final = f'"{PROVIDED}":['.encode()  # in no text, where quotes are escaped
_SHAPES: Final = 4096  # of keys: as many as there are namespaces, and lengths of names of repositories and packages


class Same:
    """What neighbours in the store have alike, which is read one after the other: kept in memory once."""

    def __init__(self) -> None:
        self._labels: dict[tuple[tuple[str, str], ...], tuple[Mapping[str, str], Mapping[str, str]]] = {}
        self._namespace = ""
        self._shape = b"", "", "", Shape(b"", ())
        self._apis: tuple[bytes, object] = b"", None

    def namespace(self, namespace: str) -> str:
        """The text that the object before it has, too, if it is in the same one."""
        if namespace != self._namespace:
            self._namespace = namespace
        return self._namespace

    def manifest(self, value: bytes) -> dict[str, Any]:
        """As orjson reads it. Its longest list, of APIs, is that of the object before it, if it has the same bytes: it
        takes half the time of reading."""
        manifest: dict[str, Any]
        at = value.find(_APIS)
        if at < 0:
            manifest = orjson.loads(value)
            return manifest
        at += len(_APIS) - 1
        text, known = self._apis
        if text and value.startswith(text, at):
            manifest = orjson.loads(b"%b[null]%b" % (value[:at], value[at + len(text) :]))
            status = manifest.get("status") or {}
            if status.get(PROVIDED) == [None]:  # else it is a list of that name elsewhere
                status[PROVIDED] = known
                return manifest
        manifest = orjson.loads(value)
        known = (manifest.get("status") or {}).get(PROVIDED)
        if value.startswith(text := orjson.dumps(known), at):
            self._apis = text, known
        return manifest

    def labels(self, labels: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Equal ones, of lately; and their texts, by themselves."""
        key = tuple(labels.items())
        if (known := self._labels.get(key)) is not None:
            return known
        if len(self._labels) >= _ALIKE:
            self._labels.clear()
        known = self._labels[key] = labels, {text: text for text in labels.values()}
        return known

    def shape(self, kind: Kind, key: bytes, name: Name) -> Shape | None:
        """As shape_of; of those in one directory of the store it is the same."""
        directory, namespace, begin, shape = self._shape
        if directory and key.startswith(directory) and name[0] == namespace:
            rest = key[len(directory) :]
            if b"/" not in rest and name[1] == begin + rest.decode("latin-1") and rest.isascii():
                return shape
        found = shape_of(kind, key, name)
        if found is not None:
            last = key.rindex(b"/") + 1
            self._shape = key[:last], name[0], name[1][: len(name[1]) - len(key) + last], found
        return found


class Alike:
    """Texts that many objects have, as versions and lifecycles are, kept in memory once: those of lately."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def one(self, text: str) -> str:
        """The text that was equal to it, or itself."""
        if len(self._texts) >= _TEXTS:
            self._texts.clear()
        return self._texts.setdefault(text, text)


def sharing_keys() -> Callable[[], dict[str, str]]:
    """Makes empty dicts that share their table of keys, as long as each gets its keys in the same order.

    Python's dicts of attributes share that of a class (PEP 412), whoever reads them: 176 bytes instead of 280 for ten
    fields, found as fast.
    """
    keys = type("Fields", (), {})
    return lambda: keys().__dict__


class Shape(NamedTuple):
    """A key that says no more than the name: `before`, then the name with slashes in the place of some dots."""

    before: bytes
    slashes: tuple[int, ...]

    def key(self, name: Name) -> bytes:
        """Of the object with this name."""
        text = bytearray(name[1], "ascii")
        for at in self.slashes:
            text[at] = ord("/")
        return self.before + text


def named_after(kind: Kind, key: bytes) -> Name:
    """The name that a key's object has, unless its name had to be escaped; store/keys.py, names.py."""
    namespace, _, name = str(key[len(SERVED) + len(kind) + 1 :], "latin-1").partition("/")
    return namespace, name.replace("/", ".")


def shape_of(kind: Kind, key: bytes, name: Name) -> Shape | None:
    """None: the key says something else than the name, so it has to be kept beside it."""
    if named_after(kind, key) != name or not name[1].isascii():
        return None
    size = len(name[1])
    tail = key[-size:]
    slashes, at = [], tail.find(b"/")
    while at >= 0:
        slashes.append(at)
        at = tail.find(b"/", at + 1)
    return _shape(key[:-size], tuple(slashes))


_shape: Final = lru_cache(maxsize=_SHAPES)(Shape)
