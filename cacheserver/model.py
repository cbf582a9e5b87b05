"""What is served and how it is written down: kinds, keys, records, and the one JSON form of a served object.

Pure data, no I/O. A served object's bytes are made here once, at ingest; the store keeps them, the watch cache splices
the resourceVersion in, and nobody encodes them again.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NewType

import orjson

from cacheserver import names
from cacheserver.slotted import slotted

GROUP: Final = "cacheserver.dev"
CONFIG_GROUP: Final = "config.cacheserver.dev"
VERSION: Final = "v1alpha1"

LABEL_REPOSITORY: Final = f"{GROUP}/repository"
LABEL_PACKAGE: Final = f"{GROUP}/package"
LABEL_FORMAT: Final = f"{GROUP}/format"
LABEL_LATEST: Final = f"{GROUP}/latest"
LABEL_LIFECYCLE: Final = f"{GROUP}/lifecycle"
ANNOTATION_ALLOW_EMPTY: Final = f"{GROUP}/allow-empty"
ANNOTATION_DISPLAY_NAME: Final = f"{GROUP}/display-name"
ANNOTATION_SHOWN: Final = f"{GROUP}/shown-by"
"""Of a package: doors that show it by itself, and have no other way to tell who watches (ingest/shown.py)."""
ANNOTATION_PUBLISHER: Final = f"{GROUP}/publisher"
"""Of a Repository: its catalog's names for people, which PackageManifests carry."""
ANNOTATION_REQUESTED: Final = f"{GROUP}/requestedAt"

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits, of the uncompressed bytes."""

ANNOTATION_USERS: Final = f"{GROUP}/set-by-users"
"""On an object with labels or annotations of users: their names, as JSON. What else it has comes from its source."""

OBJECT_VERSION: Final = 2
"""Of what encode() and names.py make of a record: raise it when they change, and every source is read again once."""

_DIGEST: Final = re.compile(rb'"digest":"(sha256:[0-9a-f]{64})"')
_NAME: Final = b'"name":"'
_UID_NAMESPACE: Final = uuid.UUID("6c1f9c5e-5c1b-5f0e-9b53-2d1f0f6d9a11")


class Kind(StrEnum):
    """A stored kind; the value is its plural resource name."""

    REPOSITORY = "repositories"
    PACKAGE = "packages"
    REVISION = "packagerevisions"
    CHANGE = "packagechanges"


_TYPE: Final[Mapping[Kind, tuple[str, str]]] = {
    Kind.REPOSITORY: (f"{CONFIG_GROUP}/{VERSION}", "Repository"),
    Kind.PACKAGE: (f"{GROUP}/{VERSION}", "Package"),
    Kind.REVISION: (f"{GROUP}/{VERSION}", "PackageRevision"),
    Kind.CHANGE: (f"{GROUP}/{VERSION}", "PackageChange"),
}

METADATA_OPEN: Final[Mapping[Kind, bytes]] = {
    kind: f'{{"apiVersion":"{api_version}","kind":"{name}","metadata":{{'.encode()
    for kind, (api_version, name) in _TYPE.items()
}
"""What every served object of the kind begins with; the resourceVersion is spliced in right behind it."""

SPEC_OPEN: Final = b'},"spec":'
"""Ends the metadata. Cannot occur before that: inside a JSON string every quote is escaped."""


NAMED_BY_REPOSITORY: Final = frozenset((Kind.PACKAGE, Kind.REVISION))
"""Kinds whose names begin with their repository's and a dot, so that those of one repository are a range."""


class Format(StrEnum):
    """What a source's bytes mean."""

    FBC = "FBC"
    KRM = "KRM"


class Lifecycle(StrEnum):
    """How far a package revision is."""

    DRAFT = "Draft"
    PROPOSED = "Proposed"
    PUBLISHED = "Published"
    DELETION_PROPOSED = "DeletionProposed"

    @property
    def published(self) -> bool:
        """Whether it is, be it proposed for deletion or not."""
        return self in (Lifecycle.PUBLISHED, Lifecycle.DELETION_PROPOSED)


@dataclass(frozen=True, slots=True, order=True)
class RepositoryKey:
    """Identity of a repository. As text, in messages and as the name of the claim on it: `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Identity of a served object. A repository's has no package, a package's no revision.

    revision: what the object is named after. FBC: the bundle's version (`1.2.3`, `1.2.3/4` with a release), never the
    bundle's name, which may change under the same version; KRM: the revision. The store derives the etcd key from
    these parts and clients see `name`, so no two keys ever hold one name, and no key changes its name.
    """

    kind: Kind
    namespace: str
    repository: str
    package: str = ""
    revision: str = ""

    @property
    def name(self) -> str:
        """The object's name."""
        if self.kind is Kind.REPOSITORY:
            return self.repository
        if self.kind is Kind.PACKAGE:
            return names.package_name(self.repository, self.package)
        return names.revision_name(self.repository, self.package, self.revision)


@slotted(frozen=True)
class Record:
    """One object as ingestion wants it served. The store adds uid, creationTimestamp, generation, resourceVersion.

    spec, status: JSON objects, encoded with orjson in a fixed key order: equal content gives equal bytes.
    blobs: digests that the status refers to; each must be in the store before the record is written.
    nonce: of the uid of a revision that was made here (uid_of); empty for all others.
    """

    key: Key
    labels: Mapping[str, str]
    spec: bytes
    status: bytes
    blobs: Sequence[Digest] = field(default=())
    annotations: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""

    @property
    def name(self) -> str:
        """Its object's name."""
        return self.key.name


@slotted(frozen=True)
class UserMetadata:
    """What users wrote into an object's metadata. It stands beside what the source gives, and no sync changes it.

    owner_references: as Kubernetes has them. deletion: RFC 3339, set for an object that waits for its finalizers.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    finalizers: Sequence[str] = ()
    owner_references: Sequence[Mapping[str, Any]] = ()
    deletion: str = ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> UserMetadata:
        """What encode() was given, out of the object that it made."""
        metadata = manifest["metadata"]
        annotations = metadata.get("annotations") or {}
        names = orjson.loads(annotations.get(ANNOTATION_USERS, "{}"))
        labels = metadata.get("labels") or {}
        return cls(
            {name: labels[name] for name in names.get("labels", ()) if name in labels},
            {name: annotations[name] for name in names.get("annotations", ()) if name in annotations},
            metadata.get("finalizers", ()),
            metadata.get("ownerReferences", ()),
            metadata.get("deletionTimestamp", ""),
        )


@slotted(frozen=True)
class Stored:
    """One served object as etcd holds it. `value` is the manifest without resourceVersion.

    key: where it is kept; of a revision that an older release wrote it may say another name than `name` does.
    """

    key: Key
    value: bytes
    mod_revision: int

    @property
    def name(self) -> str:
        """The object's name, as it is served."""
        start = len(METADATA_OPEN[self.key.kind]) + len(_NAME)  # encode() writes it first; nothing in it is escaped
        return self.value[start : self.value.index(b'"', start)].decode()

    def has_label(self, label: str) -> bool:
        """Whether the object carries the label, with any value."""
        return label.encode() in self.value and label in orjson.loads(self.value)["metadata"].get("labels", {})

    def blobs(self) -> set[Digest]:
        """Digests of the content that the object refers to."""
        return blob_references(self.value)


def blob_references(value: bytes) -> set[Digest]:
    """Every `digest` in spec and status of a manifest (see encode): of its content, icon and documents.

    Never one that users wrote, into an annotation or a condition: it would keep content that nobody has any more.
    """
    return {Digest(digest.decode()) for digest in _DIGEST.findall(value, max(value.find(SPEC_OPEN), 0))}


@slotted(frozen=True)
class BlobHead:
    """What is known of a blob without reading it.

    size: uncompressed bytes. files: (path, bytes) of each file in the tar, in order; empty for an icon.
    media_type: of an icon; `application/x-tar` for packages' files.
    """

    digest: Digest
    size: int
    media_type: str
    files: Sequence[tuple[str, int]] = field(default=())


@slotted(frozen=True)
class BlobFile:
    """A blob on its way into the store: one zstd frame (level 3) of `stored` bytes in a file of ours, from `at` on."""

    head: BlobHead
    path: Path
    stored: int
    at: int = 0

    @classmethod
    def whole(cls, head: BlobHead, path: Path) -> BlobFile:
        """One that has a file to itself. Raises: OSError."""
        return cls(head, path, path.stat().st_size)


def uid_of(kind: Kind, namespace: str, name: str, nonce: str = "") -> str:
    """Ours: UUIDv5 of kind, namespace and name, stable over restart and re-ingest.

    nonce: of an object that was made here, and may be deleted and made again: then it is another one. It stands in git
    as well, and whoever writes it there makes no object that has the uid of another.
    """
    # As uuid.uuid5 makes it (RFC 9562, 5.5), which takes three times as long, of every object that is written.
    text = _UID_NAMESPACE.bytes + "/".join(filter(None, (kind, namespace, name, nonce))).encode()
    digits = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def encode(
    record: Record,
    *,
    previous: bytes | None,
    now: str,
    users: UserMetadata | None = None,
    old: Mapping[str, Any] | None = None,
) -> bytes:
    """The manifest's bytes, without resourceVersion; equal to `previous` when nothing changed.

    previous: the bytes served before, if any: creationTimestamp is kept, generation moves only with spec. old: what
    they say, of who has read them.
    now: RFC 3339 in UTC with whole seconds (`2026-11-20T10:00:00Z`).
    users: what users wrote into the metadata; None: what `previous` has of it.
    """
    created, generation, name = now, 1, record.name
    if previous is not None:
        old = old or orjson.loads(previous)
        assert old is not None
        created = old["metadata"]["creationTimestamp"]
        generation = old["metadata"]["generation"]
        if orjson.dumps(old["spec"]) != record.spec:
            generation += 1
        if users is None:
            users = UserMetadata.of(old)
    identity: dict[str, object] = {
        "name": name,
        "namespace": record.key.namespace,
        "uid": uid_of(record.key.kind, record.key.namespace, name, record.nonce),
        "creationTimestamp": created,
        "generation": generation,
    }
    metadata = _metadata(identity, record.labels, record.annotations, users or UserMetadata())
    return _written(record.key.kind, metadata, record.spec, record.status)


def edited(
    value: bytes,
    *,
    users: UserMetadata | None = None,
    labels: Mapping[str, str] | None = None,
    spec: bytes | None = None,
    status: bytes | None = None,
) -> bytes:
    """A PackageRevision's manifest (see encode) with other parts; what is None stays. Its identity stays in any case.

    labels: those that its source gives, without users'. Equal to `value` when nothing changed.
    """
    old: dict[str, Any] = orjson.loads(value)
    metadata, before = old["metadata"], UserMetadata.of(old)
    identity = {name: metadata[name] for name in ("name", "namespace", "uid", "creationTimestamp", "generation")}
    if spec is not None and orjson.dumps(old["spec"]) != spec:
        identity["generation"] += 1
    if labels is None:
        labels = {name: text for name, text in metadata.get("labels", {}).items() if name not in before.labels}
    own = {*before.annotations, ANNOTATION_USERS}
    annotations = {name: text for name, text in metadata.get("annotations", {}).items() if name not in own}
    return _written(
        Kind.REVISION,
        _metadata(identity, labels, annotations, users or before),
        spec if spec is not None else orjson.dumps(old["spec"]),
        status if status is not None else orjson.dumps(old["status"]),
    )


def _written(kind: Kind, metadata: Mapping[str, object], spec: bytes, status: bytes) -> bytes:
    inner = orjson.dumps(metadata)[1:-1]
    return b"".join((METADATA_OPEN[kind], inner, SPEC_OPEN, spec, b',"status":', status, b"}"))


def _metadata(
    identity: Mapping[str, object], own: Mapping[str, str], noted: Mapping[str, str], users: UserMetadata
) -> dict[str, object]:
    """own, noted: labels and annotations of the source."""
    metadata = dict(identity)
    if users.deletion:
        metadata |= {"deletionTimestamp": users.deletion, "deletionGracePeriodSeconds": 0}
    annotations = {**noted, **users.annotations}
    if users.labels or users.annotations:
        names = {"labels": sorted(users.labels), "annotations": sorted(users.annotations)}
        annotations[ANNOTATION_USERS] = orjson.dumps(names).decode()
    if labels := {**own, **users.labels}:
        metadata["labels"] = dict(sorted(labels.items()))
    if annotations:
        metadata["annotations"] = dict(sorted(annotations.items()))
    if users.owner_references:
        metadata["ownerReferences"] = list(users.owner_references)
    if users.finalizers:
        metadata["finalizers"] = list(users.finalizers)
    return metadata


def without_label(value: bytes, label: str) -> bytes:
    """A manifest (see encode) less one of its labels."""
    manifest = orjson.loads(value)
    del manifest["metadata"]["labels"][label]
    return orjson.dumps(manifest)


def with_resource_version(kind: Kind, value: bytes, resource_version: int) -> bytes:
    """The manifest as clients get it: `value` (see encode) with its resourceVersion spliced in."""
    at = len(METADATA_OPEN[kind])
    return b"".join((value[:at], b'"resourceVersion":"%d",' % resource_version, value[at:]))
