"""A field with several values: what is selected by any of them, such as the kinds that a package provides.

Objects that have the same values share them: of 20 versions of a package they are nearly always the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Final

_BREAK: Final = "\n"


class Several(str):
    """All values in one text, for comparing and for finding by: a text of each for itself would take ten times that."""

    __slots__ = ("__weakref__",)

    @property
    def values(self) -> frozenset[str]:
        """Each of them; made anew each time."""
        return frozenset(self.split(_BREAK))

    @property
    def many(self) -> int:
        """How many values there are."""
        return self.count(_BREAK) + 1

    def has(self, value: str) -> bool:
        """Whether it is one of them."""
        if _BREAK in value:
            return False
        return (
            self == value
            or self.startswith(f"{value}{_BREAK}")
            or self.endswith(f"{_BREAK}{value}")
            or f"{_BREAK}{value}{_BREAK}" in self
        )


_known: Final[weakref.WeakValueDictionary[int, Several]] = weakref.WeakValueDictionary()
"""By its hash: as its own key it would never go, and its text beside it would be there twice."""


def several(values: Iterable[str]) -> str:
    """The field of these values; empty for none. The same object as long as anybody else has the same values.

    A value with a line break is left out: nothing that can be selected has one, and it would pass for two.
    """
    return shared(_BREAK.join(sorted({value for value in values if value and _BREAK not in value})))


def shared(text: str) -> str:
    """As several(), of values that are sorted and joined with line breaks already, each of them once."""
    if not text:
        return ""
    found = _known.get(hash(text))
    if found != text:  # none, or by chance another of the same hash, which is shared no more
        found = Several(text)
        _known[hash(text)] = found
    return found
