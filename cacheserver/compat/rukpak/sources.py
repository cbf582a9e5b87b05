"""The CatalogSource controller: in a cluster, each is another way to write a Repository of its namespace.

compat/made does it; here is what a CatalogSource asks for, and what its status says. A server of one's own reads them
from files instead (config/repositories.py), and shows them as views (door.py). Called by the server, in a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from cacheserver import metrics
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.compat.made import spec, words
from cacheserver.compat.made.maker import Counts, Maker, Refusal
from cacheserver.compat.made.words import Says
from cacheserver.config import Door, show_duration
from cacheserver.config.repositories import CATALOG_SOURCE, INTERVAL
from cacheserver.model import GROUP, RepositoryKey

Object = Mapping[str, Any]

KIND: Final = "CatalogSource"
MADE_OF: Final = f"{GROUP}/catalog-source"
"""Annotation of a Repository that was made of the CatalogSource of that name."""
READY: Final = "Ready"
_INTERVAL_CHARACTERS: Final = 32  # configs/kubernetes/crd/repositories.yaml


class CatalogSources:
    """See the module. Call run() (for ever). It is the Kind of its Maker."""

    name = KIND
    mark = MADE_OF
    door = Door.RUKPAK
    counts = Counts(metrics.catalogsources, metrics.catalogsource_statuses, metrics.catalogsource_contested)

    def __init__(
        self, api: KubeAPI, leads: Callable[[], bool], *, namespaces: Sequence[str] = (), **pauses: float
    ) -> None:
        """namespaces: whose CatalogSources count; empty for all. pauses: Maker's."""
        self.namespaces = tuple(namespaces) or ("",)
        self._maker = Maker(api, self, leads, **pauses)

    async def run(self) -> NoReturn:
        """Until cancelled; while Kubernetes is away, it waits."""
        await self._maker.run()

    # --- the Kind ---

    def path(self, namespace: str) -> str:
        """As Kind.path."""
        return f"/apis/{CATALOG_SOURCE}/{f'namespaces/{namespace}/' if namespace else ''}catalogsources"

    def repository(self, made_of: Object, namespace: str) -> dict[str, Any]:
        """As Kind.repository. Raises: ValueError; kube-apiserver lets many such CatalogSources pass."""
        wanted = made_of.get("spec") or {}
        image = spec.image(wanted.get("image"), "spec.image")
        body = {"source": {"oci": {"image": image}}, **_interval(wanted, image), "publish": [Door.RUKPAK.value]}
        return spec.repository({"apiVersion": CATALOG_SOURCE, "kind": KIND, **made_of}, namespace, MADE_OF, body)

    def marks(self, made_of: Object, found: Object | None) -> dict[str, Any]:
        """None: its metadata is its user's."""
        return {}

    def status(
        self, key: RepositoryKey, made_of: Object, found: Object | None, refused: Refusal
    ) -> tuple[dict[str, Any], float]:
        """When its image was looked at last, as rukpak-packageserver has it; and, ours, how that went."""
        before = made_of.get("status") or {}
        polled = ((found or {}).get("status") or {}).get("lastCheckedAt") or before.get("latestImagePoll")
        ready = _ready(found, refused) or words.said(before).get(READY)
        said = words.conditions({READY: ready}, made_of, time.time())
        return {**said, **({"latestImagePoll": polled} if polled else {})}, 0.0

    def gone(self, key: RepositoryKey) -> None:
        """Nothing is kept of it."""


def _interval(wanted: Object, image: str) -> dict[str, str]:
    """Repository.spec.interval; none where it is left out, for the server's own."""
    text = wanted.get("pollingInterval")
    if text is None or spec.is_by_digest(image):
        return {}
    if not isinstance(text, str) or len(text) > _INTERVAL_CHARACTERS:
        raise ValueError(f"spec.pollingInterval is to be a text as 45m, of {_INTERVAL_CHARACTERS} characters at most")
    try:
        return {"interval": show_duration(INTERVAL.parse(text, Path()))}
    except ValueError as exc:
        raise ValueError(f"spec.pollingInterval: {exc}") from exc


def _ready(found: Object | None, refused: Refusal) -> Says | None:
    """In the words of its Repository; None while nobody knows better than before."""
    if refused.why:
        return Says(False, "Refused" if refused.final else "Retrying", refused.why)
    ready = words.condition(found, READY) if found is not None and words.is_current(found) else {}
    if ready.get("status") not in ("True", "False"):
        return None
    return Says(ready["status"] == "True", ready.get("reason", ""), ready.get("message", ""))
