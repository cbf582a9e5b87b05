"""How a refused write is told, worded as kube-apiserver words it (k8s.io/apimachinery/pkg/api/errors/errors.go)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cacheserver.errors import Cause, RefusedError
from cacheserver.model import CONFIG_GROUP, GROUP

REVISIONS: Final = "packagerevisions"
KIND: Final = "PackageRevision"
RESOURCES_KIND: Final = "PackageRevisionResources"


def invalid(name: str, causes: Sequence[Cause], kind: str = KIND) -> RefusedError:
    """422 that repeats every cause with its field."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    message = f'{kind}.{GROUP} "{name}" is invalid: {joined}'
    return RefusedError(422, "Invalid", message, kind=kind, name=name, causes=causes)


def wrong(name: str, field: str, value: str, why: str, kind: str = KIND) -> RefusedError:
    """422 for one field."""
    return invalid(name, [bad(field, value, why)], kind)


def bad(field: str, value: str, why: str) -> Cause:
    """A field with a value that cannot be."""
    shown = value if len(value) <= 200 else f"{value[:200]}..."
    return Cause("FieldValueInvalid", f'Invalid value: "{shown}": {why}', field)


def required(field: str, why: str = "") -> Cause:
    """A field that has to be there."""
    return Cause("FieldValueRequired", f"Required value{': ' if why else ''}{why}", field)


def denied(field: str, why: str) -> Cause:
    """A field that may not be set."""
    return Cause("FieldValueForbidden", f"Forbidden: {why}", field)


def forbidden(name: str, why: str) -> RefusedError:
    """403: the caller may, but not in this state."""
    return RefusedError(
        403, "Forbidden", f'{REVISIONS}.{GROUP} "{name}" is forbidden: {why}', kind=REVISIONS, name=name
    )


def conflict(
    name: str,
    why: str = "the object has been modified; please apply your changes to the latest version and try again",
    *,
    retry_after_s: int = 0,
    kind: str = REVISIONS,
) -> RefusedError:
    """409: as it is now it cannot be done; it may be tried again."""
    message = f'Operation cannot be fulfilled on {kind}.{GROUP} "{name}": {why}'
    return RefusedError(409, "Conflict", message, kind=kind, name=name, retry_after_s=retry_after_s)


def exists(name: str, why: str = "") -> RefusedError:
    """409: there is one of this name."""
    message = f'{REVISIONS}.{GROUP} "{name}" already exists{": " if why else ""}{why}'
    return RefusedError(409, "AlreadyExists", message, kind=REVISIONS, name=name)


def not_found(name: str) -> RefusedError:
    """404 of a revision."""
    return RefusedError(404, "NotFound", f'{REVISIONS}.{GROUP} "{name}" not found', kind=REVISIONS, name=name)


def no_repository(name: str) -> RefusedError:
    """404 of a Repository."""
    message = f'repositories.{CONFIG_GROUP} "{name}" not found'
    return RefusedError(404, "NotFound", message, kind="repositories", name=name)
