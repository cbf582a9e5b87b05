"""Bodies into objects, as strict as the client asks (fieldValidation), and what is left out told as warnings.

Rules: k8s.io/apimachinery/pkg/runtime/serializer/json, k8s.io/apiserver/pkg/endpoints/handlers (fieldValidation).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

import orjson

from cacheserver.api.attributes import Query
from cacheserver.api.describe.schema import OBJECT_META
from cacheserver.api.http.reply import JSON, YAML
from cacheserver.api.kinds.resource import Field, Resource, Type
from cacheserver.api.status import Cause, StatusError, bad_request, brief, invalid, unsupported_media_type
from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.slotted import slotted

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
PATCHES: Final = (JSON_PATCH, MERGE_PATCH)

YAML_BYTES: Final = 3 << 20
"""Of a body in YAML. Ours: it is read at 2 MB/s; JSON at 200."""
_THREAD_BYTES: Final = 64 << 10  # more is decoded in a thread: a millisecond
_TOLD_MOST: Final = 20  # warnings, or errors, of one body
_YAML: Final = ParseLimits(document_bytes=YAML_BYTES)


class FieldValidation(StrEnum):
    """What a field that nobody knows, or that is there twice, does."""

    IGNORE = "Ignore"
    WARN = "Warn"
    STRICT = "Strict"


@slotted(frozen=True)
class WriteOptions:
    """How a write is meant."""

    dry_run: bool
    validation: FieldValidation


@slotted()
class Decoded:
    """value: any JSON. duplicates: names of fields that were there twice."""

    value: Any
    duplicates: list[str] = field(default_factory=list)


def write_options(query: Query, kind: str) -> WriteOptions:
    """Raises: StatusError 422 (k8s.io/apimachinery/pkg/apis/meta/v1/validation)."""
    causes: list[Cause] = []
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        causes.append(_unsupported("dryRun", dry_run, ("All",)))
    manager = query.get("fieldManager", "")
    if len(manager) > 128 or not manager.isprintable():
        said = f"Invalid value: {brief(manager)!r}: must be at most 128 printable characters"
        causes.append(Cause("FieldValueInvalid", said, "fieldManager"))
    validation = query.get("fieldValidation", "") or FieldValidation.WARN.value
    if validation not in tuple(FieldValidation):
        causes.append(_unsupported("fieldValidation", validation, tuple(FieldValidation)))
    if causes:
        raise invalid(kind, "meta.k8s.io", causes)
    return WriteOptions(bool(dry_run), FieldValidation(validation))


def _unsupported(name: str, value: str, supported: Sequence[str]) -> Cause:
    quoted = ", ".join(f'"{one}"' for one in supported)
    return Cause("FieldValueNotSupported", f'Unsupported value: "{brief(value)}": supported values: {quoted}', name)


def media_type(content_type: str, allowed: Sequence[str] = (JSON, YAML)) -> str:
    """The one of `allowed` that a Content-Type names; without any the first. Raises: StatusError 415."""
    sent = content_type.partition(";")[0].strip().lower()
    if not sent:
        return allowed[0]
    if sent == "application/x-yaml" and YAML in allowed:
        return YAML
    if sent not in allowed:
        raise unsupported_media_type(allowed)
    return sent


async def decode(raw: bytes, media: str) -> Decoded:
    """The value of a body. Raises: StatusError 400, 413."""
    if media == YAML and len(raw) > YAML_BYTES:
        why = f"Request entity too large: limit is {YAML_BYTES} for YAML; send JSON"
        raise StatusError(413, "RequestEntityTooLarge", why)
    reader = _yaml if media == YAML else _json
    if len(raw) <= (_THREAD_BYTES if media != YAML else _THREAD_BYTES // 8):
        return reader(raw)
    return await asyncio.to_thread(reader, raw)


def _yaml(raw: bytes) -> Decoded:
    try:
        loaded = goyaml.load(raw, _YAML)
    except DocumentError as exc:
        at = f"line {exc.line}: " if exc.line else ""
        raise bad_request(f"the body is no YAML that can be read: {at}{exc}") from exc
    value = None if isinstance(loaded.value, goyaml.Nothing) else loaded.value
    return Decoded(value, [key for key, _ in loaded.duplicates[:_TOLD_MOST]])


def _json(raw: bytes) -> Decoded:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise bad_request(f"the body is no JSON that can be read: {exc}") from exc
    return Decoded(value, _duplicates(raw))


def _duplicates(raw: bytes) -> list[str]:
    found: dict[str, None] = {}

    def members(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen and len(found) < _TOLD_MOST:
                found[name] = None
            seen.add(name)

    try:
        json.loads(raw, object_pairs_hook=members, parse_int=len, parse_float=len)
    except (ValueError, RecursionError) as exc:
        raise bad_request("the body is nested too deep") from exc
    return list(found)


def as_object(value: Any, resource: Resource, *, kinds: Sequence[str] = ()) -> dict[str, Any]:
    """`value` as an object of this kind. Raises: StatusError 400 for one of another kind, or none."""
    if not isinstance(value, dict):
        raise bad_request("the body is no object")
    kind, api_version = value.get("kind"), value.get("apiVersion")
    if kind not in (resource.kind, *kinds) or api_version != resource.api_version:
        # k8s.io/apiserver/pkg/endpoints/handlers/create.go
        said = f"{brief(str(api_version))}, Kind={brief(str(kind))}"
        expected = f"{resource.api_version}, Kind={resource.kind}"
        raise bad_request(f"the API version in the data ({said}) does not match the expected API version ({expected})")
    for part in ("metadata", "spec"):
        if value.get(part) is not None and not isinstance(value[part], dict):
            raise bad_request(f"{part} must be an object")
    return value


def strictness(
    decoded: Decoded,
    whole: Mapping[str, Any],
    resource: Resource,
    validation: FieldValidation,
    *,
    status: bool = False,
) -> tuple[str, ...]:
    """Warnings of what is unknown or there twice. whole: the object that it makes. status: that is written.

    Raises: StatusError 400 (Strict).
    """
    if validation is FieldValidation.IGNORE:
        return ()
    told = [f'unknown field "{name}"' for name in _unknown(whole, resource, status=status)]
    told += [f'duplicate field "{brief(name)}"' for name in decoded.duplicates]
    told = told[:_TOLD_MOST]
    if told and validation is FieldValidation.STRICT:
        raise bad_request(f"strict decoding error: {', '.join(told)}")
    return tuple(told)


def _unknown(whole: Mapping[str, Any], resource: Resource, *, status: bool) -> list[str]:
    found = [name for name in whole if name not in ("apiVersion", "kind", "metadata", "spec", "status")]
    _walk(whole.get("metadata"), OBJECT_META, "metadata", found)
    _walk(whole.get("spec"), resource.spec.fields, "spec", found)
    if status and resource.status is not None:
        _walk(whole.get("status"), resource.status.fields, "status", found)
    return [brief(name) for name in found[:_TOLD_MOST]]


def _walk(value: Any, fields: Sequence[Field], path: str, found: list[str]) -> None:
    if not isinstance(value, dict):
        return
    known = {each.name: each for each in fields}
    for name, inner in value.items():
        declared = known.get(name)
        if declared is None:
            found.append(f"{path}.{name}")
        elif declared.type is Type.OBJECT and declared.fields:
            _walk(inner, declared.fields, f"{path}.{name}", found)
        elif declared.type is Type.OBJECTS and isinstance(inner, list):
            for at, one in enumerate(inner[:_TOLD_MOST]):
                _walk(one, declared.fields, f"{path}.{name}[{at}]", found)
        if len(found) >= _TOLD_MOST:
            return
