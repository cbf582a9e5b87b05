"""Versions and version ranges exactly as strict as github.com/blang/semver/v4, which OLM validates with.

Ours rather than a package: those on PyPI differ in the range grammar or accept what blang refuses.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import total_ordering
from typing import Final

from cacheserver.slotted import slotted

_UINT64 = 1 << 64
_WORD = re.compile(r"[0-9A-Za-z-]+\Z")
_DIGITS = re.compile(r"[0-9]+\Z")


@total_ordering
@slotted(frozen=True, eq=False)
class Version:
    """A semantic version. Build metadata takes no part in order and equality (semver 2.0, item 10)."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[object, ...]:
        """Orders as versions do, at the cost of a tuple: for whoever compares one many times."""
        # No prerelease ranks above any; numbers rank below words; a longer list above its own prefix (item 11).
        identifiers = tuple((0, int(part), "") if _DIGITS.match(part) else (1, 0, part) for part in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, identifiers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.rank == other.rank

    def __hash__(self) -> int:
        return hash(self.rank)

    def __lt__(self, other: Version) -> bool:
        return self.rank < other.rank

    def __str__(self) -> str:
        pre = "-" + ".".join(self.pre) if self.pre else ""
        build = "+" + ".".join(self.build) if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{build}"


def parse(text: str) -> Version:
    """The version `text` names. Raises: ValueError that says which rule is broken."""
    if not text:
        raise ValueError("version string empty")
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise ValueError(f"no major.minor.patch in {text!r}")
    head, plus, build = parts[2].partition("+")
    patch, dash, pre = head.partition("-")
    return Version(
        _number(parts[0], "major"),
        _number(parts[1], "minor"),
        _number(patch, "patch"),
        tuple(_identifier(part, "prerelease") for part in pre.split(".")) if dash else (),
        tuple(_identifier(part, "build metadata") for part in build.split(".")) if plus else (),
    )


def _number(text: str, what: str) -> int:
    if not _DIGITS.match(text) or not text.isascii():
        raise ValueError(f"invalid characters in {what} number {text!r}")
    if len(text) > 1 and text[0] == "0":
        raise ValueError(f"{what} number must not contain leading zeroes: {text!r}")
    if len(text) > 20 or int(text) >= _UINT64:
        raise ValueError(f"{what} number out of range: {text!r}")
    return int(text)


def _identifier(text: str, what: str) -> str:
    if not _WORD.match(text):
        raise ValueError(f"{what} is empty or has invalid characters: {text!r}")
    if what == "prerelease" and _DIGITS.match(text):
        return str(_number(text, "numeric prerelease"))
    return text


@slotted(frozen=True)
class Range:
    """A range of versions. alternatives: of each all comparators have to hold, of these one; `=`, `!=`, `<` and so on.

    Build metadata takes no part: `<1.0.0+2` does not hold 1.0.0+1.
    """

    alternatives: tuple[tuple[tuple[str, Version], ...], ...]

    def holds(self, version: Version) -> bool:
        """Whether the version is in it."""
        return any(all(_HOLDS[op](version, bound) for op, bound in each) for each in self.alternatives)


_HOLDS: Final[Mapping[str, Callable[[Version, Version], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SPELLED: Final = {**{op: op for op in _HOLDS}, "": "=", "==": "=", "!": "!="}


def check_range(text: str) -> None:
    """Returns when blang's ParseRange would accept `text`. Raises: ValueError with the part that it refuses."""
    parse_range(text)


def parse_range(text: str) -> Range:
    """The range as blang's ParseRange reads it. Raises: ValueError with the part that it refuses."""
    parts = _split(text)
    if not parts or parts[-1] == "||":
        raise ValueError("last element in range is '||'")
    if parts[0] == "||":
        raise ValueError("first element in range is '||'")
    alternatives: list[list[tuple[str, Version]]] = [[]]
    for part in parts:
        if part == "||":
            alternatives.append([])
        else:
            alternatives[-1] += _comparators(part)
    return Range(tuple(map(tuple, alternatives)))


def _comparators(part: str) -> list[tuple[str, Version]]:
    """What one part demands: one comparator, or the two that a wildcard stands for."""
    sign, written = _comparator(part)
    is_wildcard = "x" in part
    flat = _without_wildcard(sign, written) if is_wildcard else written
    try:
        version = parse(flat)
    except ValueError as exc:
        raise ValueError(f"could not parse {part!r}: {exc}") from None
    meant = _SPELLED.get(sign)
    if meant is None:
        raise ValueError(f"could not parse comparator {sign!r} in {part!r}")
    if not is_wildcard or meant in ("<", ">="):
        return [(meant, version)]
    if written.count(".") not in (1, 2):
        raise ValueError(f"could not parse wildcard in {part!r}")
    # blang expandWildcardVersion: what follows `1.x` is 2.0.0, what follows `1.2.x` and `1.x.x` has the next minor.
    minor = written.count(".") == 2
    upper = Version(version.major + (not minor), version.minor + minor, version.patch)
    below = {"=": [(">=", version), ("<", upper)], "!=": [("<", version), (">=", upper)]}
    return below.get(meant) or [({"<=": "<", ">": ">="}[meant], upper)]


def _split(text: str) -> list[str]:
    """blang splitAndTrim, its quirk included: a part of one character is dropped. `> 1.0.0` is one part."""
    parts: list[str] = []
    last, before = 0, ""
    for at, char in enumerate(text):
        if char == " " and before not in {">", "<", "="}:
            if last < at - 1:
                parts.append(text[last:at])
            last = at + 1
        elif char != " ":
            before = char
    if last < len(text) - 1:
        parts.append(text[last:])
    return [part.replace(" ", "") for part in parts]


def _comparator(part: str) -> tuple[str, str]:
    digit = re.search(r"[0-9]", part)
    if not digit:
        raise ValueError(f"could not get version from string: {part!r}")
    return part[: digit.start()], part[digit.start() :]


def _without_wildcard(sign: str, version: str) -> str:
    """blang expandWildcardVersion: `1.x` and `1.x.x` as 1.0.0, `1.2.x` as 1.2.0.

    An `x` elsewhere (`1.0.0-x1`) survives only under `<` and `>=`, which need no upper neighbour.
    """
    if not version.endswith(".x") and sign not in {"<", ">="}:
        raise ValueError(f"could not parse wildcard in {version!r}")
    flat = version.replace(".x.x", ".x", 1).replace(".x", ".0", 1)
    return flat + ".0" if flat.count(".") == 1 else flat


_RELEASE_LONGEST = 20


def check_release(text: str) -> None:
    """Returns when `text` is a release: dotted prerelease identifiers, at most 20 characters. Raises: ValueError."""
    if len(text) > _RELEASE_LONGEST:
        raise ValueError(f"longer than {_RELEASE_LONGEST} characters")
    for part in text.split("."):
        _identifier(part, "prerelease")
