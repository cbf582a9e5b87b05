"""What may have been meant by a name that is not there: people leave the repository's part out.

Asked for a 404 only. Looks names up, never searches: the name comes from a client.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from cacheserver.cache.watchcache import WatchCache
from cacheserver.model import LABEL_PACKAGE, Kind

_SHOWN: Final = 5  # names in a message
_LOOKED_AT: Final = 200
"""Packages of one name, of all repositories and namespaces, and dots of a name: 20 us. Past that nothing is meant."""


def meant(cache: WatchCache, kind: Kind, namespace: str, plural: str, name: str) -> str:
    """What to add to "not found": `; there is "community.kube-green"`. Empty where there is nothing of the kind.

    Tells of the same namespace and kind alone, which whoever may get one of them by name may well know.
    """
    if kind is Kind.REPOSITORY:
        return ""
    found = list(islice(_completed(cache, kind, namespace, name), _SHOWN + 1))
    if found:
        names = ", ".join(f'"{each}"' for each in found[:_SHOWN])
        return f"; there {'is' if len(found) == 1 else 'are'} {names}" + (" and more" if len(found) > _SHOWN else "")
    here = islice(cache.of_package(kind, name), _LOOKED_AT)
    if kind is Kind.REVISION and any(where == namespace for where, _ in here):
        return f'; "{name}" is a package: kubectl get {plural} -l {LABEL_PACKAGE}={name}'
    return ""


def _completed(cache: WatchCache, kind: Kind, namespace: str, name: str) -> Iterator[str]:
    """Names of objects that are `name` behind the name of a repository."""
    words = name.split(".")[:_LOOKED_AT]
    for count in range(1, len(words) + 1):
        package = ".".join(words[:count])
        for key in islice(cache.of_package(Kind.PACKAGE, package), _LOOKED_AT):
            entry = cache.held(Kind.PACKAGE, key) if key[0] == namespace else None
            if entry is not None:
                whole = f"{entry.fields.get('spec.repository', '')}.{name}"
                if cache.held(kind, (namespace, whole)) is not None:
                    yield whole
