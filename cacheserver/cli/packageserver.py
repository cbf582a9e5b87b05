"""Whether OLM's package-server is where PackageManifests are to be served: two undo each other. Changes nothing.

Called by doctor.py where PackageManifests are served. Rules: operator-lifecycle-manager
pkg/controller/install/apiservice.go (an APIService without OLM's labels is not adopted, and its own is put back).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cacheserver.cli.doctor import Finding, Level
from cacheserver.config import Settings
from cacheserver.errors import KubernetesError

if TYPE_CHECKING:
    from cacheserver.cluster.kubeapi import KubeAPI

APISERVICE: Final = "v1.packages.operators.coreos.com"
_QUESTION: Final = "PackageManifests"
_OWNER: Final = "olm.owner"
_CSVS: Final = "/apis/operators.coreos.com/v1alpha1/clusterserviceversions"
_NAME: Final = "packageserver"
_REMEDY: Final = (
    "leave components/packagemanifests out and unset --packagemanifests; publish through the registry instead "
    "(docs/doors/packagemanifests.md)"
)


async def findings(api: KubeAPI, settings: Settings) -> Sequence[Finding]:
    """One where PackageManifests are served, else none."""
    if not settings.serving.packagemanifests:
        return ()
    try:
        ours, found, remedy = await rival(api)
    except KubernetesError as exc:
        remedy = "use an administrator's kubeconfig with --kubernetes"
        return [Finding(_QUESTION, Level.SKIPPED, str(exc), remedy)]
    return [Finding(_QUESTION, Level.OK if ours else Level.FAILED, found, remedy)]


async def rival(api: KubeAPI) -> tuple[bool, str, str]:
    """Whether the group is ours to serve, what was found, and what to do. Raises: KubernetesError when nobody may
    look."""
    try:
        apiservice = await api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{APISERVICE}")
    except KubernetesError as exc:
        if exc.code != 404:
            raise
        apiservice = {}
    owner = _owner(apiservice)
    if owner:
        return False, f"the APIService {APISERVICE} is OLM's: {owner}", _REMEDY
    namespace = await _csv(api)
    if namespace is not None:
        return False, f"OLM's package-server is installed: CSV {_NAME} in {namespace}", _REMEDY
    if not apiservice:
        return False, f"there is no APIService {APISERVICE}", "apply components/packagemanifests of configs/kubernetes"
    return True, f"the APIService {APISERVICE} is not OLM's", ""


def _owner(apiservice: Mapping[str, Any]) -> str:
    labels: Mapping[str, str] = (apiservice.get("metadata") or {}).get("labels") or {}
    return f"label {_OWNER}={labels[_OWNER]}" if _OWNER in labels else ""


async def _csv(api: KubeAPI) -> str | None:
    """The namespace of package-server's CSV; None where there is none, no OLM at all, or nobody lets us look."""
    try:
        listed = await api.get(_CSVS, {"fieldSelector": f"metadata.name={_NAME}", "limit": "1"})
    except KubernetesError as exc:
        if exc.code in (403, 404):
            return None
        raise
    for item in listed.get("items") or ():
        return str(item["metadata"].get("namespace", ""))
    return None
