"""How a field of a dataclass declares a setting, and the row of the table that comes of it: a value's three spellings.

Knows no setting. settings.py declares them; load.py, the command line and tools/reference.py read the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from cacheserver.config.quantities import Kind
from cacheserver.slotted import slotted

T = TypeVar("T")

ENV_PREFIX: Final = "CACHESERVER_"
_METADATA: Final = "setting"


@slotted(frozen=True)
class Setting:
    """One row of the table. `field` is the attribute in the subject's dataclass; flag, env and key spell it on the
    command line, in the environment and in a file."""

    subject: type[Any]
    field: str
    flag: str
    env: str
    key: str
    kind: Kind[Any]
    help: str
    many: bool
    """It may be given several times."""
    default: str
    """As text; empty where there is none."""


@slotted(frozen=True)
class _Declared:
    flag: str
    kind: Kind[Any]
    help: str
    many: bool = False
    default_text: str | None = None


def setting(
    flag: str, kind: Kind[T], default: T | Callable[[], T], meaning: str, *, default_text: str | None = None
) -> Any:  # as dataclasses.field, which has to fit every field's type
    """A field that is a setting. flag: without its dashes. meaning: one line for help and docs.

    default_text: how the default reads where it depends on the machine.
    """
    declared = _Declared(flag, kind, meaning, default_text=default_text)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata={_METADATA: declared})
    return dataclasses.field(default=default, metadata={_METADATA: declared})


def settings(flag: str, kind: Kind[T], meaning: str) -> Any:  # see setting
    """A field that is a setting which may be given several times: a tuple, empty by default."""
    return dataclasses.field(default=(), metadata={_METADATA: _Declared(flag, kind, meaning, many=True)})


def rows(subjects: Mapping[str, type[Any]]) -> Iterator[Setting]:
    """Every setting of the dataclasses, in their order; all fields of these have to be settings."""
    for subject in subjects.values():
        for field in dataclasses.fields(subject):
            declared: _Declared = field.metadata[_METADATA]
            name = f"{declared.flag}s" if field.name == "catalogs" else declared.flag
            default = declared.default_text
            if default is None:
                default = "" if declared.many else declared.kind.show(field.default)
            yield Setting(
                subject=subject,
                field=field.name,
                flag=f"--{declared.flag}",
                env=ENV_PREFIX + name.upper().replace("-", "_"),
                key=_camel(name),
                kind=declared.kind,
                help=declared.help,
                many=declared.many,
                default=default,
            )


def _camel(flag: str) -> str:
    first, *rest = flag.split("-")
    return first + "".join(part.capitalize() for part in rest)
