"""What objects have alike, kept in memory once, and what they say twice, kept once: half a kilobyte of each.

Pure. Called by watchcache, for every object that it reads; nothing here is ever told to a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from cacheserver.cache.snapshot import Name
from cacheserver.model import Kind
from cacheserver.store.keys import SERVED

_ALIKE: Final = 256  # of what is looked up so that equal values are one: those of a few neighbours
_SHAPES: Final = 4096  # of keys: as many as there are namespaces, and lengths of names of repositories and packages


class Same:
    """What neighbours in the store have alike, which is read one after the other: kept in memory once."""

    def __init__(self) -> None:
        self._labels: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
        self._namespace = ""
        self._holders: dict[tuple[str, ...], type] = {}

    def namespace(self, namespace: str) -> str:
        """The text that the object before it has, too, if it is in the same one."""
        if namespace != self._namespace:
            self._namespace = namespace
        return self._namespace

    def labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """Equal ones, of lately."""
        key = tuple(labels.items())
        if (known := self._labels.get(key)) is not None:
            return known
        if len(self._labels) >= _ALIKE:
            self._labels.clear()
        self._labels[key] = labels
        return labels

    def fields(self, fields: Mapping[str, str], labels: Mapping[str, str], name: Name) -> Mapping[str, str]:
        """Equal ones, of the texts that the object has anyway, in a dict that shares its keys with others.

        Attributes of objects of one class are in dicts that share a table of keys (PEP 412), whoever holds them later:
        176 bytes instead of 280 for ten fields, found as fast.
        """
        texts = {text: text for text in (*name, *labels.values())}
        keys = tuple(fields)
        holder = self._holders.get(keys)
        if holder is None:
            if len(self._holders) >= _ALIKE:
                self._holders.clear()
            holder = self._holders[keys] = type("Fields", (), {})
        made: dict[str, str] = holder().__dict__
        for path, text in fields.items():
            made[path] = texts.get(text, text) if type(text) is str else text
        return made


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
