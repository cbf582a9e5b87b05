"""Follows a collection of the host cluster: a list, then every change, for ever (k8s: client-go's Reflector).

Resumes where a watch ended; lists again when that is too old. What an object means is the caller's business.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from cacheserver.cluster.kubeapi import KubeAPI, Object, Query
from cacheserver.errors import KubernetesError, KubernetesExpired
from cacheserver.slotted import slotted

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.8  # k8s.io/client-go/tools/cache/reflector.go: 800 ms to 30 s, doubling
_LONGEST_PAUSE_S: Final = 30.0
_SHORT_S: Final = 1.0
_PAGE: Final = 500  # k8s.io/client-go/tools/pager: defaultPageSize; no answer grows with the cluster


@slotted(frozen=True)
class Listed:
    """All there is; what came before is void."""

    objects: Sequence[Object]


@slotted(frozen=True)
class Changed:
    """One object as it is now, or as it was last when it is gone."""

    object: Object
    deleted: bool


async def follow(
    api: KubeAPI, path: str, query: Query | None = None, *, first_pause_s: float = FIRST_PAUSE_S
) -> AsyncGenerator[Listed | Changed, None]:
    """Listed first, then changes; Listed again whenever changes may have been missed. Never ends, never raises.

    query: selectors. Errors are waited out, with growing pauses; the first one and the recovery are logged.
    Close it: `async with aclosing(...)`.
    """
    since, pause_s, failing = "", first_pause_s, False
    while True:
        begun, heard = asyncio.get_running_loop().time(), False
        try:
            if not since:
                objects, since = await _list(api, path, query)
                yield Listed(objects)
            async with aclosing(api.watch(path, since, query)) as events:
                async for event in events:
                    if failing:  # not before: a watch that cannot be opened fails only when it is asked for an event
                        failing = False
                        log.info("kube-apiserver answers again", extra={"path": path})
                    since = event.resource_version
                    pause_s, heard = first_pause_s, True
                    if event.type != "BOOKMARK":
                        yield Changed(event.object, deleted=event.type == "DELETED")
            # client-go, handleAnyWatch: one that ends at once and in silence is a failure, or we would ask without end
            if heard or asyncio.get_running_loop().time() - begun >= _SHORT_S:
                continue
        except KubernetesExpired:
            since = ""
        except KubernetesError as exc:
            if not failing:
                failing = True
                log.warning("cannot follow kube-apiserver, trying on", extra={"path": path, "error": str(exc)})
        await asyncio.sleep(pause_s * random.uniform(1.0, 2.0))  # noqa: S311  spreads replicas, guards nothing
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def _list(api: KubeAPI, path: str, query: Query | None) -> tuple[list[Object], str]:
    """Every object, and the resource version that all of them are as of."""
    page, objects = {**(query or {}), "limit": str(_PAGE)}, list[Object]()
    while True:
        found = await api.get(path, page)
        objects += found.get("items") or ()
        more = found["metadata"].get("continue")
        if not more:
            return objects, found["metadata"]["resourceVersion"]
        page["continue"] = more
