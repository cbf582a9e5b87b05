"""Whether a catalogd runs in this cluster: two controllers on ClusterCatalogs would undo each other's writes for ever.

Nothing in a ClusterCatalog says whose it is, so catalogd has all of them wherever it runs. Until Kubernetes said that
there is none we take it that there is one. Called by the controller; the doctor asks on its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, NoReturn

from cacheserver import metrics
from cacheserver.cluster.follow import FIRST_PAUSE_S, Listed, follow
from cacheserver.cluster.kubeapi import KubeAPI

log = logging.getLogger(__name__)

DEPLOYMENT: Final = "catalogd-controller-manager"
"""operator-framework/operator-controller, helm/olmv1/templates: in olmv1-system, and elsewhere on OpenShift."""
PATH: Final = "/apis/apps/v1/deployments"
QUERY: Final = {"fieldSelector": f"metadata.name={DEPLOYMENT}"}


class Rival:
    """See the module. Call run() (for ever)."""

    def __init__(self, api: KubeAPI, changed: Callable[[], None], *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        """changed: called after `absent` became another."""
        self._api = api
        self._changed = changed
        self._first_pause_s = first_pause_s
        self._ready: dict[tuple[str, str], int] = {}
        self._listed = asyncio.Event()
        self._absent: bool | None = None

    @property
    def absent(self) -> bool:
        """Whether Kubernetes says that no catalogd has a ready replica."""
        return self._absent is True

    async def run(self) -> NoReturn:
        """Follow catalogd's Deployments until cancelled."""
        async with aclosing(follow(self._api, PATH, QUERY, first_pause_s=self._first_pause_s)) as news:
            async for new in news:
                if isinstance(new, Listed):
                    self._ready = {_key(each): ready_of(each) for each in new.objects}
                elif new.deleted:
                    self._ready.pop(_key(new.object), None)
                else:
                    self._ready[_key(new.object)] = ready_of(new.object)
                self._judge()
        raise AssertionError("follow never ends")

    def _judge(self) -> None:
        running = sorted(key for key, ready in self._ready.items() if ready)
        absent = not running
        metrics.clustercatalogs_catalogd.set(len(running))
        if absent == self._absent:
            return
        if running:
            log.warning(
                "catalogd runs here: ClusterCatalogs are left to it",
                extra={"namespace": running[0][0], "deployment": running[0][1]},
            )
        elif self._absent is not None:
            log.info("no catalogd runs any more: ClusterCatalogs are ours")
        self._absent = absent
        self._changed()


def ready_of(deployment: Mapping[str, Any]) -> int:
    """Its ready replicas."""
    ready = (deployment.get("status") or {}).get("readyReplicas")
    return ready if isinstance(ready, int) else 0


def _key(deployment: Mapping[str, Any]) -> tuple[str, str]:
    metadata = deployment["metadata"]
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))
