"""What may have been meant by a name that is not there: people leave the repository's part out.

Asked for a 404 only. Looks names up, never searches: the name comes from a client.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from cacheserver.cache.snapshot import Name
from cacheserver.cache.watchcache import WatchCache
from cacheserver.model import LABEL_PACKAGE, Kind
from cacheserver.names import MAX_NAME

_SHOWN: Final = 5  # names in a message
_LOOKED_AT: Final = 200
"""Packages of all repositories and namespaces that a name may begin with. Past that nothing is meant."""


def meant(cache: WatchCache, kind: Kind, namespace: str, plural: str, name: str) -> str:
    """What to add to "not found": `; there is "community.kube-green"`. Empty where there is nothing of the kind.

    Tells of the same namespace and kind alone, which whoever may get one of them by name may well know.
    """
    if kind is Kind.REPOSITORY or len(name) > MAX_NAME:
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
    for key in islice(_packages(cache, name), _LOOKED_AT):
        entry = cache.held(Kind.PACKAGE, key) if key[0] == namespace else None
        if entry is not None:
            whole = f"{entry.fields.get('spec.repository', '')}.{name}"
            if cache.held(kind, (namespace, whole)) is not None:
                yield whole


def _packages(cache: WatchCache, name: str) -> Iterator[Name]:
    """Packages, of every namespace, that `name` begins with."""
    end = len(name)
    while end > 0:
        yield from cache.of_package(Kind.PACKAGE, name[:end])
        end = name.rfind(".", 0, end)
