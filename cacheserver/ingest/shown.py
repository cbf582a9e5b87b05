"""Writes into what is served by which doors it is shown, where a door shows single objects: so that who watches there
hears when spec.publish changes.

A package says so itself: an annotation for Rukpak, `status.manifest` for PackageManifests. When either is named no more
it is taken away, of what is in etcd, whether the source answers or not. (Manifests come with the next sync, which makes
them.) In a cluster, whose Repositories are not in etcd, one is put there while Rukpak is named: CatalogCaches are views
of it. Called by sync.py and life.py, under the claim on the repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from cacheserver.config import Door, RepositoryConfig
from cacheserver.config.doors import in_order
from cacheserver.model import ANNOTATION_SHOWN, Key, Kind, Record, Stored
from cacheserver.store.claims import Claim
from cacheserver.store.keys import IngestState
from cacheserver.store.objects import PIPELINE, Store
from cacheserver.tasks import in_parallel

WITH_MANIFESTS: Final = "manifests:"
"""How the settings of a sync begin that made PackageManifests."""
_OF_PACKAGES: Final = frozenset((Door.PACKAGE_MANIFEST, Door.RUKPAK))


def shown_by(config: RepositoryConfig) -> str:
    """Doors that show single packages of the repository, as a sync remembers them."""
    return ",".join(in_order(config.publish & _OF_PACKAGES))


def marked(package: Record, config: RepositoryConfig) -> Record:
    """A package as it is to be written."""
    others = {name: text for name, text in package.annotations.items() if name != ANNOTATION_SHOWN}
    mark = {ANNOTATION_SHOWN: Door.RUKPAK.value} if Door.RUKPAK in config.publish else {}
    return replace(package, annotations={**others, **mark})


async def show(
    config: RepositoryConfig, state: IngestState | None, claim: Claim, store: Store, *, from_cluster: bool
) -> IngestState | None:
    """Bring what is served in step with spec.publish; returns what the last sync saw, as it is remembered then.

    Cut short, it is done again. Raises: EtcdError (NoSpace and LeaseLostError among them).
    """
    if state is not None and Door.PACKAGE_MANIFEST not in config.publish and state.settings.startswith(WITH_MANIFESTS):
        # Before the first one goes: should they be published again, they are to be made again.
        state = replace(state, settings="")
        await store.put_state(claim, config.key, state)
    if from_cluster:
        await _repository(config, claim, store)

    async def rewrite(stored: Stored) -> None:
        manifest: dict[str, Any] = orjson.loads(stored.value)
        package = _as_written(stored, manifest)
        wanted = marked(package, config)
        if Door.PACKAGE_MANIFEST not in config.publish and manifest["status"].pop("manifest", None) is not None:
            wanted = replace(wanted, status=orjson.dumps(manifest["status"]))
        if wanted != package:
            await store.put(claim, wanted, stored)

    async for page in store.packages(config.key):
        await in_parallel(page, rewrite, width=PIPELINE)
    if state is not None:
        state = replace(state, shown=shown_by(config))
        await store.put_state(claim, config.key, state)
    return state


async def _repository(config: RepositoryConfig, claim: Claim, store: Store) -> None:
    key = Key(Kind.REPOSITORY, config.key.namespace, config.key.name)
    stored = await store.read_object(key)
    if Door.RUKPAK in config.publish:
        await store.put(claim, Record(key, {}, config.spec_json(), b"{}"), stored)
    elif stored is not None:
        await store.delete(claim, stored)


def _as_written(stored: Stored, manifest: Mapping[str, Any]) -> Record:
    """What the package was made of; users write nothing into packages."""
    metadata = manifest["metadata"]
    return Record(
        stored.key,
        metadata.get("labels", {}),
        orjson.dumps(manifest["spec"]),
        orjson.dumps(manifest["status"]),
        annotations=metadata.get("annotations", {}),
    )
