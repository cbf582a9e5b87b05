"""Dataclasses whose methods are not compiled one by one while a module is imported. For every room but the client.

The standard library writes the source of up to six methods a class and compiles each: 0.8 ms a class, and that was two
fifths of what `validate` spent on imports, and some kB of code a class that an empty server held. Here it makes
`__init__`; comparing, hashing and printing are functions over the names of the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["slotted"]

if TYPE_CHECKING:
    # To a type checker it is one: frozen fields, replace() and positions are checked as ever.
    from dataclasses import dataclass as slotted
else:

    def slotted(
        *, frozen: bool = False, eq: bool = True, kw_only: bool = False, weakref_slot: bool = False
    ) -> Callable[[type], type]:
        """As dataclasses.dataclass, with fields' `repr`, `hash` and `compare`, and methods that the class has itself.

        frozen: who assigns to a field is told by the type checker alone, and not while the program runs: objects are
        made twice as fast. Those with eq can be hashed, as there.
        """

        def made(cls: type) -> type:
            whole = dataclass(init=True, repr=False, eq=False, slots=True, kw_only=kw_only, weakref_slot=weakref_slot)
            return _completed(whole(cls), frozen=frozen, eq=eq)

        return made


def _completed(cls: type, *, frozen: bool, eq: bool) -> type:
    own = vars(cls)
    every = fields(cls)
    if "__repr__" not in own:
        _give(cls, _printing([each.name for each in every if each.repr]))
    if not eq:
        return cls
    # As dataclasses: a class that has __eq__ without __hash__ has None for it, which is not one of its own.
    hashed = own.get("__hash__") is not None
    if "__eq__" not in own:
        _give(cls, _comparing(_values([each.name for each in every if each.compare])))
    if not hashed:
        if frozen:
            values = _values([each.name for each in every if (each.compare if each.hash is None else each.hash)])
            _give(cls, _hashing(values))
        else:
            cls.__hash__ = None  # type: ignore[assignment]  # says that objects cannot be hashed (data model)
    return cls


def _give(cls: type, method: Callable[..., object]) -> None:
    method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
    setattr(cls, method.__name__, method)


def _values(names: Sequence[str]) -> Callable[[Any], object]:
    """What an object is compared and hashed by."""
    return attrgetter(*names) if names else lambda _: ()


def _comparing(values: Callable[[Any], object]) -> Callable[[object, object], bool]:
    def __eq__(self: object, other: object) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hashing(values: Callable[[Any], object]) -> Callable[[object], int]:
    def __hash__(self: object) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


def _printing(names: Sequence[str]) -> Callable[[object], str]:
    def __repr__(self: object) -> str:  # noqa: N807
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__
