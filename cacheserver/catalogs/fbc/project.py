"""A good package into the records that are served: one for each bundle, then the package. Fields:
docs/reference/kinds.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cacheserver import model
from cacheserver.catalogs import bounds
from cacheserver.catalogs.fbc import facts as f
from cacheserver.catalogs.fbc.manifest import Manifest
from cacheserver.catalogs.fbc.rules import Bundle, Package
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import Digest, Format, Key, Kind, Record, RepositoryKey

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")  # Kubernetes: labels, syntax
_FORMAT = str(Format.FBC)


_OF_REVISION: Final = ("relatedImages", "providedAPIs", "requiredAPIs", "dependencies", "constraints")
_OF_PACKAGE: Final = ("keywords", "categories", "providedAPIs")
"""Lists whose whole is in the content of the revision, or of the latest one. Channels do not: never cut."""


def records(
    repository: RepositoryKey,
    package: Package,
    limits: ParseLimits = bounds.DEFAULT,
    *,
    raw: str = "",
    manifest: Manifest | None = None,
) -> list[Record]:
    """Revisions from the lowest version up, the package last. raw: digest of its documents as they are written.
    manifest: its PackageManifest, where one is wanted.

    Raises: BoundError for one too large to be served.
    """
    deprecated = {(entry.schema, entry.name): entry.message for entry in package.deprecations}
    latest = next(channel.head for channel in package.channels if channel.said.name == package.said.default_channel)
    membership = _membership(package)
    made = [
        _revision(
            repository, bundle, membership[bundle.said.name], deprecated, limits, latest=bundle.said.name == latest
        )
        for bundle in package.bundles
    ]
    made.append(_package(repository, package, deprecated, latest, limits, raw, manifest))
    for record in made:
        bounds.check(record, limits)
    return made


def _membership(package: Package) -> dict[str, list[dict[str, Any]]]:
    """Bundle name -> its place in each channel, by channel name."""
    found: dict[str, list[dict[str, Any]]] = {bundle.said.name: [] for bundle in package.bundles}
    for channel in package.channels:
        for entry in channel.said.entries:
            place = {
                "name": channel.said.name,
                "head": True if entry.name == channel.head else None,
                "replaces": entry.replaces,
                "skips": entry.skips,
                "skipRange": entry.skip_range,
            }
            found[entry.name].append(_present(place))
    return found


def _revision(
    repository: RepositoryKey,
    bundle: Bundle,
    channels: Sequence[Mapping[str, Any]],
    deprecated: Mapping[tuple[str, str], str],
    limits: ParseLimits,
    *,
    latest: bool,
) -> Record:
    said = bundle.said
    digest, size, files = said.content
    spec = {
        "repository": repository.name,
        "packageName": said.package,
        "revision": said.name,
        "version": bundle.written,
        "lifecycle": "Published",
        "format": _FORMAT,
    }
    status = {
        "channels": channels,
        "image": said.image,
        "relatedImages": [_present({"name": name, "image": image}) for name, image in said.related_images],
        "providedAPIs": [_api(api) for api in said.provided],
        "requiredAPIs": [_api(api) for api in said.required],
        "dependencies": [{"package": package, "versionRange": wanted} for package, wanted in said.dependencies],
        "constraints": said.constraints,
        "minKubeVersion": said.about.min_kube_version,
        "deprecation": _deprecation(deprecated.get((f.BUNDLE, said.name))),
        "content": {"digest": digest, "size": size, "files": files},
    }
    labels = {
        model.LABEL_REPOSITORY: repository.name,
        model.LABEL_PACKAGE: said.package,
        model.LABEL_FORMAT: _FORMAT,
        model.LABEL_LIFECYCLE: "Published",
        model.LABEL_LATEST: "true" if latest else "",
    }
    cut = [name for name in said.cut if name in status]
    # The version, not the bundle's name: the same version may have another name tomorrow. rules.py refuses a package in
    # which two bundles have one version.
    naming = f"{bundle.written}/{bundle.release}" if bundle.release else bundle.written
    return Record(
        key=Key(Kind.REVISION, repository.namespace, repository.name, said.package, naming),
        labels=_labels(labels),
        spec=orjson.dumps(spec),
        status=orjson.dumps(bounds.fitted(_present(status), _OF_REVISION, cut, limits)),
        blobs=(Digest(digest),),
    )


def _package(
    repository: RepositoryKey,
    package: Package,
    deprecated: Mapping[tuple[str, str], str],
    latest: str,
    limits: ParseLimits,
    raw: str,
    manifest: Manifest | None,
) -> Record:
    said = package.said
    versions = {bundle.said.name: bundle.written for bundle in package.bundles}
    head = next(bundle.said for bundle in package.bundles if bundle.said.name == latest)
    about = head.about
    channels = [
        _present(
            {
                "name": channel.said.name,
                "head": channel.head,
                "headVersion": versions[channel.head],
                "revisions": len(channel.said.entries),
                "deprecated": True if (f.CHANNEL, channel.said.name) in deprecated else None,
            }
        )
        for channel in package.channels
    ]
    media_type, digest, size = said.icon or ("", "", 0)
    status = {
        "displayName": about.display_name,
        "summary": about.summary or said.summary,
        "provider": _present({"name": about.provider_name, "url": about.provider_url}),
        "keywords": about.keywords,
        "categories": about.categories,
        "defaultChannel": said.default_channel,
        "channels": channels,
        "latest": {"revision": latest, "version": versions[latest]},
        "revisions": len(package.bundles),
        "providedAPIs": [_api(api) for api in head.provided],
        "icon": {"mediaType": media_type, "digest": digest, "size": size} if said.icon else None,
        "deprecation": _deprecation(deprecated.get((f.PACKAGE, ""))),
        "documents": {"digest": raw} if raw else None,
        "manifest": manifest.status if manifest else None,
    }
    cut = [name for name in head.cut if name in status]
    labels = {
        model.LABEL_REPOSITORY: repository.name,
        model.LABEL_PACKAGE: said.name,
        model.LABEL_FORMAT: _FORMAT,
    }
    return Record(
        key=Key(Kind.PACKAGE, repository.namespace, repository.name, said.name),
        labels=_labels(labels),
        spec=orjson.dumps({"repository": repository.name, "packageName": said.name, "format": _FORMAT}),
        status=orjson.dumps(bounds.fitted(_present(status), _OF_PACKAGE, cut, limits)),
        blobs=(
            *(Digest(each) for each in (digest, raw) if each),
            *(head.digest for head, _ in (manifest.content if manifest else ())),
        ),
    )


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing, as `omitempty` does; zero and false are kept, they say something."""
    return {name: value for name, value in fields.items() if value not in (None, "") and value not in ([], (), {})}


def _api(api: tuple[str, str, str]) -> dict[str, str]:
    group, version, kind = api
    return {"group": group, "version": version, "kind": kind}


def _deprecation(message: str | None) -> dict[str, str] | None:
    return {"message": message} if message else None


def _labels(wanted: Mapping[str, str]) -> dict[str, str]:
    """Without empty values and those that no label can have: left out, never mangled (docs/sources.md, Names)."""
    return {name: value for name, value in wanted.items() if value and _LABEL_VALUE.match(value)}
