"""A slotted class is what dataclasses.dataclass makes of the same fields, where it matters to who uses it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field

import pytest

from cacheserver.slotted import slotted


@slotted(frozen=True)
class Slotted:
    name: str
    noted: list[int] = field(default_factory=list, compare=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Standard:
    name: str
    noted: list[int] = field(default_factory=list, compare=False)
    secret: str = field(default="", repr=False)


@slotted(frozen=True)
class Twin:
    name: str
    noted: list[int] = field(default_factory=list, compare=False)
    secret: str = field(default="", repr=False)


@slotted(frozen=True)
class Heir(Slotted):
    more: int = 0


@slotted()
class Changing:
    count: int = 0


@slotted(frozen=True, eq=False)
class Itself:
    name: str


@slotted(frozen=True)
class Empty:
    """Nothing to compare."""


@slotted(frozen=True)
class Own:
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and self.name.lower() == other.name.lower()

    def __hash__(self) -> int:
        return hash(self.name.lower())

    def __repr__(self) -> str:
        return "own"


@slotted(frozen=True)
class OwnEquality:  # noqa: PLW1641  what is tested
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnEquality)


def test_it_is_compared_and_hashed_by_the_fields_that_are_compared() -> None:
    for made in (Slotted, Standard):
        assert made("a", [1]) == made("a", [2])
        assert hash(made("a", [1])) == hash(made("a", [2]))
        assert made("a") != made("b")
        assert made("a", secret="x") != made("a")


def test_it_equals_nothing_of_another_class() -> None:
    others: list[object] = [Twin("a"), Heir("a"), "a"]
    assert all(Slotted("a") != other for other in others)
    assert Heir("a", more=1) != Heir("a", more=2)


def test_it_is_printed_as_the_standard_librarys_and_hides_what_is_not_to_be_printed() -> None:
    shown = repr(Slotted("a", [1], "swordfish"))
    assert shown == repr(Standard("a", [1], "swordfish")).replace("Standard", "Slotted")
    assert "swordfish" not in shown


def test_what_changes_cannot_be_hashed() -> None:
    changing = Changing(1)
    changing.count = 2
    assert changing == Changing(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(changing)


def test_without_equality_it_is_itself_alone() -> None:
    one, other = Itself("a"), Itself("a")
    assert one != other
    assert len({one, other}) == 2


def test_all_without_fields_are_equal() -> None:
    assert Empty() == Empty()
    assert len({Empty(), Empty()}) == 1


def test_methods_of_its_own_are_kept() -> None:
    assert Own("A") == Own("a")
    assert len({Own("A"), Own("a")}) == 1
    assert repr(Own("A")) == "own"
    assert hash(OwnEquality("a")) == hash(OwnEquality("a"))  # as dataclasses: a hash is made where only __eq__ is given


def test_it_has_slots_and_no_dictionary() -> None:
    assert not hasattr(Slotted("a"), "__dict__")
    with pytest.raises(AttributeError):
        Slotted("a").nme = "b"  # type: ignore[attr-defined]  # what nobody declared


def test_it_is_replaced_copied_pickled_and_matched() -> None:
    one = Slotted("a", [1], "s")
    assert dataclasses.replace(one, name="b") == Slotted("b", [1], "s")
    assert dataclasses.asdict(one) == {"name": "a", "noted": [1], "secret": "s"}
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    match one:
        case Slotted(name, [number]):
            assert (name, number) == ("a", 1)
        case _:
            pytest.fail("not matched")
