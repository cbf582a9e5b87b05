"""What a ClusterCatalog's status says, in catalogd's words, of a Repository and of what is published of it. Pure.

Types and words: operator-framework/operator-controller, api/v1/clustercatalog_types.go and
internal/catalogd/controllers/core/clustercatalog_controller.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cacheserver.compat.clustercatalogs.wanted import unavailable
from cacheserver.compat.made import words
from cacheserver.compat.made.words import Says
from cacheserver.model import GROUP, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.published import PublishedCatalog

Object = Mapping[str, Any]

PROGRESSING: Final = "Progressing"
SERVING: Final = "Serving"
_UNAVAILABLE: Final = "Catalog availability mode is set to Unavailable"
_WHEN_SERVED: Final = ("resolvedSource", "urls", "lastUnpacked")


@slotted(frozen=True)
class Facts:
    """What is known of one ClusterCatalog. found: its Repository; None: there is none.

    published: what is served of it, None: nothing. known: whether that has been asked at all. base: its urls.base.
    refused: why there can be no Repository; final: its user has to do something about it.
    """

    key: RepositoryKey
    found: Object | None
    published: PublishedCatalog | None
    known: bool
    base: str
    refused: str = ""
    final: bool = True


def reference(key: RepositoryKey, revision: str) -> str:
    """`resolvedSource.image.ref`: names what is served, and not where it was read, since one image can be served as
    this or that (validation), and clients keep what they got by this name alone. Has the form of an image by digest."""
    return f"{GROUP}/{key.namespace}/{key.name}@{revision}"


def base_url(url: str, namespace: str, key: RepositoryKey) -> str:
    """`urls.base`: where catalogd's API has this repository's catalog. namespace: see called."""
    return f"{url}/catalogs/{called(namespace, key)}"


def called(namespace: str, key: RepositoryKey) -> str:
    """A repository's name where there are no namespaces. namespace: whose repositories go by their name alone; others
    are NAME.NAMESPACE, which nobody else can be, since neither holds a dot."""
    return key.name if key.namespace == namespace else f"{key.name}.{key.namespace}"


def wanted(catalog: Object, facts: Facts, now: float) -> dict[str, Any]:
    """The whole status as it is to be; equal to the one there is where nothing changed. now: Unix time."""
    before: Object = catalog.get("status") or {}
    said = words.said(before)
    progressing, serving = said.get(PROGRESSING), said.get(SERVING)
    served: dict[str, Any] = {}
    if unavailable(catalog):
        progressing = Says(True, "Succeeded", _UNAVAILABLE)
        serving = Says(False, "UserSpecifiedUnavailable", _UNAVAILABLE)
    elif "deletionTimestamp" in catalog["metadata"]:
        serving = Says(False, "Unavailable", "it is being deleted")
    else:
        progressing = _progress(facts, progressing)
        if not facts.known or (facts.found is None and not facts.refused):
            served = {name: before[name] for name in _WHEN_SERVED if name in before}  # nobody knows better yet
        elif facts.published is not None and (_fresh(facts) or "urls" in before):
            served = _served(facts, facts.published)
            serving = Says(True, "Available", "Serving desired content from resolved source")
        elif serving is not None or facts.published is None:
            serving = Says(False, "Unavailable", "nothing of its source has been read so far")
    return {**words.conditions({PROGRESSING: progressing, SERVING: serving}, catalog, now), **served}


def _served(facts: Facts, published: PublishedCatalog) -> dict[str, Any]:
    return {
        "resolvedSource": {"type": "Image", "image": {"ref": reference(facts.key, published.revision)}},
        "urls": {"base": facts.base},
        "lastUnpacked": words.stamp(published.changed),
    }


def _progress(facts: Facts, before: Says | None) -> Says | None:
    """before: as it was; kept while a sync is under way."""
    if facts.refused:
        return Says(not facts.final, "Blocked" if facts.final else "Retrying", facts.refused)
    if facts.found is None:
        return before
    ready, stalled = words.condition(facts.found, "Ready"), words.condition(facts.found, "Stalled")
    if not words.is_current(facts.found) or ready.get("status") not in ("True", "False"):
        return before
    if ready["status"] == "True":
        return Says(True, "Succeeded", "Successfully unpacked and stored content from resolved source")
    why = f"source catalog content: {ready.get('reason', '')}: {ready.get('message', '')}"
    blocked = stalled.get("status") == "True"
    return Says(not blocked, "Blocked" if blocked else "Retrying", why)


def _fresh(facts: Facts) -> bool:
    """Whether what is published was read for the Repository as it is: not for one that had its name before."""
    return (
        facts.found is not None
        and words.is_current(facts.found)
        and words.condition(facts.found, "Ready").get("status") == "True"
    )
