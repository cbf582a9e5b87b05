"""What the doctor finds of doors to clients of other systems: what is published, and whether ClusterCatalogs are ours.

Looks and changes nothing. Called by the doctor, with a connection to the cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cacheserver.cli.doctor import Finding, Level
from cacheserver.compat.clustercatalogs import rival
from cacheserver.compat.clustercatalogs.wanted import OLM
from cacheserver.config import Door, RepositoryConfig, Settings
from cacheserver.errors import KubernetesError

if TYPE_CHECKING:
    from cacheserver.cluster.kubeapi import KubeAPI

Object = Mapping[str, Any]

_CATALOGS: Final = f"/apis/{OLM}/v1/clustercatalogs"
_LIMIT: Final = "500"
_SHOWN: Final = 10
_COMPONENT: Final = "add components/clustercatalogs of configs/kubernetes"


def published(configs: Iterable[RepositoryConfig], settings: Settings) -> Sequence[Finding]:
    """How many repositories each door shows, in a cluster; nothing where none is shown."""
    counts = Counter(door for config in configs for door in config.publish)
    if not counts:
        return []
    said = ", ".join(f"{counts[door]} by {door}" for door in Door if counts[door])
    heard = {
        Door.CATALOG: (
            settings.serving.catalogs_listen,
            "components/catalogs of configs/kubernetes: --catalogs-listen",
        ),
        Door.REGISTRY: (settings.serving.registry, "components/registry of configs/kubernetes: --registry"),
    }
    for door, (listens, remedy) in heard.items():
        if counts[door] and not listens:
            return [Finding("published", Level.WARNING, f"{said}; nobody listens at the door {door}", f"add {remedy}")]
    return [Finding("published", Level.OK, said)]


async def clustercatalogs(api: KubeAPI, settings: Settings) -> Sequence[Finding]:
    """Nothing where the settings do not ask for them."""
    if settings.serving.cluster_catalogs is None:
        return []
    return [await _rival(api), *await _catalogs(api)]


async def _rival(api: KubeAPI) -> Finding:
    """Whether a catalogd has them."""
    try:
        found = await api.get(rival.PATH, rival.QUERY)
    except KubernetesError as exc:
        return Finding("catalogd", Level.FAILED, f"nobody can say whether it runs: {exc}", f"{_COMPONENT}: its rights")
    running = [each for each in found.get("items") or () if rival.ready_of(each)]
    if not running:
        return Finding("catalogd", Level.OK, "does not run: ClusterCatalogs are ours")
    namespace = running[0]["metadata"].get("namespace", "")
    return Finding(
        "catalogd",
        Level.FAILED,
        f"runs in {namespace}: ClusterCatalogs are left to it, and nothing is made of them here",
        f"kubectl -n {namespace} scale deployment/{rival.DEPLOYMENT} --replicas=0, or take --cluster-catalogs away",
    )


async def _catalogs(api: KubeAPI) -> Sequence[Finding]:
    try:
        items = (await api.get(_CATALOGS, {"limit": _LIMIT})).get("items") or ()
    except KubernetesError as exc:
        remedy = "install the CustomResourceDefinition of OLM v1" if exc.code == 404 else f"{_COMPONENT}: its rights"
        return [Finding("ClusterCatalogs", Level.FAILED, str(exc), remedy)]
    troubled = [finding for item in items for finding in trouble(item)]
    if not troubled:
        return [Finding("ClusterCatalogs", Level.OK, f"all {len(items)} are served, or not to be")]
    more = Finding("ClusterCatalogs", Level.WARNING, f"{len(troubled) - _SHOWN} more", "kubectl get clustercatalogs")
    return [*troubled[:_SHOWN], *([more] if len(troubled) > _SHOWN else [])]


def trouble(catalog: Object) -> Iterable[Finding]:
    """At most one finding: it is Blocked, or is not served though it is to be."""
    name = catalog["metadata"].get("name", "")
    said = {each.get("type"): each for each in (catalog.get("status") or {}).get("conditions") or ()}
    question, remedy = f"ClusterCatalog {name}", f"kubectl describe clustercatalog {name}"
    progressing, serving = said.get("Progressing", {}), said.get("Serving", {})
    if progressing.get("reason") in ("Blocked", "Retrying"):
        level = Level.FAILED if progressing["reason"] == "Blocked" else Level.WARNING
        yield Finding(question, level, str(progressing.get("message", "")), remedy)
    elif serving.get("status") != "True" and serving.get("reason") != "UserSpecifiedUnavailable":
        yield Finding(question, Level.WARNING, "it is not served yet", "see the log of the replica that leads")
