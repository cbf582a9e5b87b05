"""What an image's documents mean: media types, indexes, manifests, configs, and where the catalog lies. Pure.

Everything here was written by whoever pushed the image; each field is checked before it is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cacheserver.errors import SourceInvalidError, SourceTooLargeError
from cacheserver.slotted import slotted
from cacheserver.sources.oci.reference import DIGEST
from cacheserver.sources.staging import checked_parts

MAX_DOCUMENT_BYTES: Final = 4 << 20  # OCI distribution: registries should limit manifests to 4 MiB; so do clients.
_MOST_VALUES: Final = 200_000  # Ours, of one document: `[],[],...` costs 25 bytes of memory a byte. Real: under 10,000.
MAX_LAYERS: Final = 512  # Ours: Docker stops at 127.

_INDEXES: Final = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_MANIFESTS: Final = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
}
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"
ACCEPT: Final = ", ".join(sorted(_INDEXES | _MANIFESTS))

# operator-registry, pkg/containertools/labelreader.go and pkg/lib/bundle/generate.go.
CONFIGS_LABEL: Final = "operators.operatorframework.io.index.configs.v1"
_SQLITE_LABEL: Final = "operators.operatorframework.io.index.database.v1"
_BUNDLE_LABEL: Final = "operators.operatorframework.io.bundle.manifests.v1"


@slotted(frozen=True)
class Platform:
    """What an image runs on, in an index's words (OCI image index: platform)."""

    os: str = "linux"
    architecture: str = "amd64"


@slotted(frozen=True)
class Descriptor:
    """A pointer to a blob or manifest: its digest and exact size."""

    digest: str
    size: int


@slotted(frozen=True)
class Document:
    """A manifest or an index as it came; `digest` is of exactly these bytes."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """`sha256:` and the hexadecimal digits."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


@slotted(frozen=True)
class Manifest:
    """An image's: where its config and its layers are, the lowest layer first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@slotted(frozen=True)
class Config:
    """What counts of an image config. diff_ids: digests of the layers unpacked, the lowest first."""

    labels: Mapping[str, str]
    diff_ids: tuple[str, ...]


def read_document(document: Document, platform: Platform, name: str) -> Manifest | Descriptor:
    """The manifest, or for an index the descriptor of the one for `platform`: the first linux one where it is missing.

    name: the image, for messages. Raises: SourceInvalidError, SourceTooLargeError.
    """
    fields = _object(document.content, name)
    media_type = document.media_type.split(";")[0].strip().lower()
    if media_type.startswith(_SCHEMA_1) or fields.get("schemaVersion") == 1:
        raise SourceInvalidError(f"{name} has a manifest of Docker schema 1, long retired; push it with a current tool")
    # Registries answer with what was pushed; a layout's document may only say in its own field what it is.
    if media_type not in _INDEXES | _MANIFESTS:
        media_type = str(fields.get("mediaType", ""))
    if media_type in _INDEXES or (not media_type and "manifests" in fields):
        return _choose(fields, platform, name)
    if media_type in _MANIFESTS or (not media_type and "layers" in fields):
        return _manifest(fields, name)
    raise SourceInvalidError(f"{name} is not an image: its media type is {media_type[:100] or 'missing'!r}")


def read_config(content: bytes, name: str) -> Config:
    """Labels and diff_ids of an image's config. Raises: SourceInvalidError."""
    fields = _object(content, name)
    inner = fields.get("config") or {}
    labels = (inner.get("Labels") if isinstance(inner, dict) else None) or {}
    rootfs = fields.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else []
    if not isinstance(labels, dict) or not isinstance(diff_ids, list) or not all(map(_is_digest, diff_ids)):
        raise SourceInvalidError(f"{name}: the image's config has labels or diff_ids of a wrong form")
    return Config({str(key): str(value) for key, value in labels.items()}, tuple(diff_ids))


def catalog_directory(labels: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The parts of the path that the label names. Raises: SourceInvalidError, saying what the image is instead."""
    if path := labels.get(CONFIGS_LABEL):
        parts = checked_parts(path)
        if parts is None:
            raise SourceInvalidError(f"{name}: label {CONFIGS_LABEL} leads out of the image: {path[:200]!r}")
        return parts
    if _SQLITE_LABEL in labels:
        raise SourceInvalidError(
            f"{name} is a sqlite catalog, which is not supported; `opm migrate` makes a file-based catalog of it"
        )
    if _BUNDLE_LABEL in labels:
        raise SourceInvalidError(
            f"{name} is a bundle image, one operator version; name the catalog image that lists it"
        )
    raise SourceInvalidError(f"{name} is not a catalog image: it lacks the label {CONFIGS_LABEL}")


def check_sizes(manifest: Manifest, config: Config, total_bytes: int, name: str) -> None:
    """Raises before anything is downloaded: SourceInvalidError, SourceTooLargeError."""
    if len(config.diff_ids) != len(manifest.layers):
        raise SourceInvalidError(
            f"{name} has {len(manifest.layers)} layers where its config names {len(config.diff_ids)} diff_ids"
        )
    size = sum(layer.size for layer in manifest.layers)
    if size > total_bytes:
        raise SourceTooLargeError(
            f"{name}: layers of {size} bytes, over {total_bytes} (cap `total_bytes`; --max-source-bytes raises it)"
        )


def _manifest(fields: Mapping[str, Any], name: str) -> Manifest:
    layers = fields.get("layers")
    if not isinstance(layers, list):
        raise SourceInvalidError(f"{name}: the manifest has no layers")
    if len(layers) > MAX_LAYERS:
        raise SourceTooLargeError(f"{name} has {len(layers)} layers, over {MAX_LAYERS}")
    config = _descriptor(fields.get("config"), name)
    if config.size > MAX_DOCUMENT_BYTES:
        raise SourceTooLargeError(f"{name}: an image config of {config.size} bytes, over {MAX_DOCUMENT_BYTES}")
    return Manifest(config, tuple(_descriptor(layer, name) for layer in layers))


def _choose(fields: Mapping[str, Any], platform: Platform, name: str) -> Descriptor:
    manifests = fields.get("manifests")
    if not isinstance(manifests, list):
        raise SourceInvalidError(f"{name}: the index has no manifests")
    of_os: list[tuple[str, Descriptor]] = []
    for entry in manifests:
        where = entry.get("platform") if isinstance(entry, dict) else None
        # Attestations are in the index as platform unknown/unknown.
        if isinstance(where, dict) and where.get("os") == platform.os:
            of_os.append((str(where.get("architecture")), _descriptor(entry, name)))
    for architecture, descriptor in of_os:
        if architecture == platform.architecture:
            return descriptor
    if of_os:
        return of_os[0][1]
    if len(manifests) == 1 and isinstance(manifests[0], dict) and "platform" not in manifests[0]:
        return _descriptor(manifests[0], name)
    raise SourceInvalidError(f"{name}: the index has no image for {platform.os}; push one for linux/amd64")


def _descriptor(fields: object, name: str) -> Descriptor:
    if isinstance(fields, dict) and _is_digest(fields.get("digest")):
        size = fields.get("size")
        if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
            return Descriptor(fields["digest"], size)
    raise SourceInvalidError(f"{name}: a descriptor without a sha256 digest or a size")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.match(value) is not None


def _object(content: bytes, name: str) -> Mapping[str, Any]:
    if len(content) > MAX_DOCUMENT_BYTES:
        raise SourceTooLargeError(f"{name}: a document of over {MAX_DOCUMENT_BYTES} bytes")
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise SourceTooLargeError(f"{name}: a document of over {_MOST_VALUES} values")
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        raise SourceInvalidError(f"{name}: a manifest or config that is not JSON") from exc
    if not isinstance(fields, dict):
        raise SourceInvalidError(f"{name}: a manifest or config that is not a JSON object")
    return fields


def named_descriptors(content: bytes, name: str) -> Sequence[tuple[str, Descriptor]]:
    """What a layout's index.json lists: (annotated name or empty, descriptor). Raises: SourceInvalidError."""
    manifests = _object(content, name).get("manifests")
    if not isinstance(manifests, list):
        raise SourceInvalidError(f"{name}: index.json has no manifests")
    found = []
    for entry in manifests:
        descriptor = _descriptor(entry, name)
        annotations = entry.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise SourceInvalidError(f"{name}: annotations in index.json are not an object")
        # OCI image-layout: the name of a reference. containerd and `docker save` write the second.
        keys = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
        found.append((next((str(annotations[key]) for key in keys if key in annotations), ""), descriptor))
    return found
