"""Makes an object as it is served of what the store has of it, and refuses by name what cannot be read.

Reads nothing and keeps nothing but what neighbours have alike (compact.py). Called by watchcache, at the start for
every object, and then for each change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from cacheserver.cache.compact import Same
from cacheserver.cache.filling import Refused
from cacheserver.cache.snapshot import CellsOf, Entry
from cacheserver.model import METADATA_OPEN, SPEC_OPEN, Kind, with_resource_version
from cacheserver.store.objects import Change

_SECONDS: Final = 256  # that objects were created in, of lately

Projection = Callable[[Mapping[str, Any], Mapping[str, str]], tuple[dict[str, str], CellsOf]]
"""From a manifest, and texts by themselves that are used for equal ones: (selectable fields, what makes its cells). One
a kind, from the API's resource rows."""


class Maker:
    """Of the objects of one cache."""

    def __init__(self, projections: Mapping[Kind, Projection]) -> None:
        self._projections = projections
        self._same = Same()

    def made(self, change: Change, refused: Refused) -> Entry | None:
        """None: it is gone, or cannot be read, and nobody is served it."""
        if change.value is None:
            return None
        try:
            return self.entry(change, change.value)
        except Exception as why:
            # The edge of one object: damaged, or by another program's hand. All others stand on the task of this.
            refused.add(change.key, why)
            return None

    def entry(self, change: Change, value: bytes) -> Entry:
        """value: what the store has. Raises: anything, for what is no object of ours."""
        kind, key, _, mod_revision = change
        same = self._same
        manifest = same.manifest(value)
        metadata = manifest["metadata"]
        metadata["namespace"] = namespace = same.namespace(metadata["namespace"])
        name = namespace, metadata["name"]
        labels, texts = same.labels(metadata.get("labels") or {})
        fields, cells = self._projections[kind](manifest, texts)
        body = with_resource_version(kind, value, mod_revision)
        return Entry(
            name,
            mod_revision,
            body,
            len(METADATA_OPEN[kind]) - 1,
            body.index(SPEC_OPEN),
            labels,
            fields,
            cells,
            _seconds(metadata["creationTimestamp"]),
            same.shape(kind, key, name) or key,
        )


@functools.lru_cache(maxsize=_SECONDS)  # of one sync many are created in one second
def _seconds(timestamp: str) -> int:
    # Not strptime: ten times slower, and paid for every object at the start.
    return int(datetime.fromisoformat(timestamp).timestamp())
