"""Files of a draft as requests name them: all at once, by a patch, or one by its path; turned into what is saved."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import orjson

from cacheserver.api.attributes import Query
from cacheserver.api.http.documents import matches
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.status import StatusError, bad_request, brief, not_found
from cacheserver.api.writing import patch
from cacheserver.api.writing.decode import JSON_PATCH, Decoded, FieldValidation, as_object, strictness
from cacheserver.errors import Cause
from cacheserver.model import GROUP, Key, with_resource_version
from cacheserver.publish import changes, refusals
from cacheserver.publish.package import File, wrong_with
from cacheserver.slotted import slotted
from cacheserver.store.authored import Held

SMALL_BYTES: Final = 64 << 10
"""Of files that are put into an answer on the loop: half a millisecond."""
_IDENTITY = ("packageName", "repository", "revision")


class Filer:
    """One request for PackageRevisionResources. warnings: known once the files were made."""

    def __init__(self, resource: Resource, key: Key, decoded: Decoded, media: str, validation: FieldValidation) -> None:
        self.key = key
        self.warnings: tuple[str, ...] = ()
        self._resource = resource
        self._decoded = decoded
        self._media = media
        self._validation = validation
        self._files: dict[str, File] = {}

    def version(self, wanted: Mapping[str, Any]) -> str:
        """The resourceVersion that an object names; empty for none."""
        return str((wanted.get("metadata") or {}).get("resourceVersion") or "")

    def replaced(self, held: Held, before: dict[str, File]) -> dict[str, File]:
        """The files of the body. Raises: StatusError, RefusedError."""
        return self._made(held, as_object(self._decoded.value, self._resource), before)

    def patched(self, held: Held, before: dict[str, File]) -> dict[str, File]:
        """The files of the object as the body changes it. Raises: StatusError, RefusedError."""
        manifest = self._manifest(held, before)
        value = self._decoded.value
        wanted = patch.patched(manifest, value) if self._media == JSON_PATCH else patch.merged(manifest, value)
        wanted = as_object(wanted, self._resource)
        if self.version(wanted) != manifest["metadata"]["resourceVersion"]:
            seen = self.version(wanted)
            if not (seen.isascii() and seen.isdigit()) or int(seen) < held.content_revision:
                raise refusals.conflict(self.key.name, kind=self._resource.plural)
        return self._made(held, wanted, before)

    def _manifest(self, held: Held, files: Mapping[str, File]) -> dict[str, Any]:
        """The object as a get shows it."""
        assert held.served is not None
        revision = orjson.loads(with_resource_version(held.key.kind, held.served.value, held.served.mod_revision))
        spec = {name: revision["spec"].get(name, "") for name in _IDENTITY}
        return {
            "apiVersion": self._resource.api_version,
            "kind": self._resource.kind,
            "metadata": {**revision["metadata"], "uid": ""},
            "spec": {**spec, **_shown(files)},
        }

    def _made(self, held: Held, wanted: Mapping[str, Any], before: Mapping[str, File]) -> dict[str, File]:
        name, kind = self.key.name, self._resource.kind
        self.warnings = strictness(self._decoded, wanted, self._resource, self._validation)
        assert held.served is not None
        revision = orjson.loads(held.served.value)
        metadata = wanted.get("metadata") or {}
        identity = {key: metadata.get(key) for key in ("name", "namespace")}
        changes.check_identity({**revision["metadata"], "uid": ""}, identity, name)
        spec: Mapping[str, Any] = wanted.get("spec") or {}
        causes = [
            refusals.bad(f"spec.{field}", str(spec[field]), "field is immutable")
            for field in _IDENTITY
            if spec.get(field) not in (None, "", revision["spec"].get(field))
        ]
        executables = _executables(spec, before, causes)
        found: dict[str, File] = {}
        for field in ("resources", "binaryResources"):
            given = spec.get(field) or {}
            if not isinstance(given, dict):
                causes.append(refusals.bad(f"spec.{field}", "", "must be an object: path to content"))
                continue
            for path, text in given.items():
                content = _content(field, path, text, causes)
                if path in found:
                    causes.append(refusals.bad(f"spec.{field}[{brief(path)}]", "", "is in spec.resources, too"))
                found[path] = File(content, path in executables)
                if len(causes) > 20:
                    break
        if causes:
            raise refusals.invalid(name, causes[:20], kind)
        if spec.get("executables") and (none := sorted(executables - found.keys())):
            self.warnings += (f"spec.executables names {brief(none[0])}, which is none of the files",)
        self._files = found
        return found

    @property
    def small(self) -> bool:
        """Whether the files that were made can be shown at once, on the loop."""
        return sum(len(file.content) for file in self._files.values()) <= SMALL_BYTES

    def shown(self, body: bytes) -> bytes:
        """`body`, an object as lists have it, with the files that were made, as a get has it."""
        manifest = orjson.loads(body)
        manifest["spec"] |= _shown(self._files)
        return orjson.dumps(manifest) + b"\n"


def _content(field: str, path: str, text: object, causes: list[Cause]) -> bytes:
    if not isinstance(text, str):
        causes.append(refusals.bad(f"spec.{field}[{brief(path)}]", "", "must be a string"))
        return b""
    try:
        return text.encode() if field == "resources" else base64.b64decode(text, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        what = "UTF-8" if field == "resources" else "base64"
        causes.append(refusals.bad(f"spec.{field}[{brief(path)}]", "", f"is no {what}"))
        return b""


def _executables(spec: Mapping[str, Any], before: Mapping[str, File], causes: list[Cause]) -> set[str]:
    """Paths that are to be executable: those that the object names, or where it says nothing, those that are."""
    said = spec.get("executables")
    if said is None:
        return {path for path, file in before.items() if file.executable}
    if isinstance(said, list) and all(isinstance(path, str) for path in said):
        return set(said)
    causes.append(refusals.bad("spec.executables", "", "must be a list of paths"))
    return set()


def _shown(files: Mapping[str, File]) -> dict[str, Any]:
    """The files as fields of a spec."""
    texts: dict[str, str] = {}
    binaries: dict[str, str] = {}
    executables: list[str] = []
    for path, file in sorted(files.items()):
        name = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if file.executable:
            executables.append(name)
        try:
            texts[name] = file.content.decode()
        except UnicodeDecodeError:
            binaries[name] = base64.b64encode(file.content).decode()
    return {"resources": texts, "binaryResources": binaries, "executables": executables}


@slotted(frozen=True)
class OneFile:
    """A file to be put (content) or deleted (None). executable: None keeps what it is. condition: If-Match as sent."""

    name: str
    path: str
    content: bytes | None
    executable: bool | None
    condition: str

    def revised(self, held: Held, before: dict[str, File]) -> dict[str, File]:
        """Raises: StatusError 404, 412; RefusedError 422."""
        if (why := wrong_with(self.path)) is not None:
            raise refusals.wrong(self.name, "files", self.path, why)
        self._check(held)
        known = before.get(self.path)
        if self.content is None:
            if known is None:
                raise not_found(GROUP, "packagerevisions/files", f"{self.name}/{self.path}")
            return {path: file for path, file in before.items() if path != self.path}
        executable = self.executable
        if executable is None:
            executable = known.executable if known is not None else False
        return {**before, self.path: File(self.content, executable)}

    def _check(self, held: Held) -> None:
        """RFC 9110, section 13.1.1."""
        assert held.served is not None
        digest = orjson.loads(held.served.value)["status"]["content"]["digest"]
        if self.condition and not matches(self.condition, f'"{digest}"'):
            why = f"If-Match: the content is {digest} by now; read it again"
            raise StatusError(412, "PreconditionFailed", why, details={"name": self.name})


def mode(query: Query) -> bool | None:
    """Whether a file is to be executable; None where nothing is said. Raises: StatusError 400."""
    text = query.get("executable")
    if text is None:
        return None
    if text not in ("true", "false"):
        raise bad_request(f"executable is true or false, not {brief(text)!r}")
    return text == "true"
