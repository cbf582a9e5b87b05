"""Which catalogs this configuration had, so that those it no longer has are forgotten. A file in the data directory.

Standalone, nothing says that a catalog went: it is just not named any more. But others may have put what etcd holds:
another server with other catalogs, or `cacheserver ingest`. So a server forgets only what it kept in step itself, which
this file lists, and not while another process does. Where there is no file (a new data directory) nothing is forgotten.
Called by the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import orjson

from cacheserver.model import RepositoryKey

log = logging.getLogger(__name__)


class Configured:
    """See the module. etcd: names the cluster; one data directory may have been used with several."""

    def __init__(self, path: Path, etcd: str) -> None:
        self._path = path
        self._etcd = etcd
        self._present: set[RepositoryKey] = set()

    async def begin(self, present: Collection[RepositoryKey]) -> Sequence[RepositoryKey]:
        """Those that the configuration had and has no more, sorted. They stay in the file until `settled`.

        Nothing, where nothing at all is configured: that is a server that only reads, or a mistake.
        """
        if not present:
            return []
        before = await asyncio.to_thread(self._read)
        self._present = before | set(present)
        await asyncio.to_thread(self._write)
        return sorted(before - set(present))

    async def settled(self, key: RepositoryKey) -> None:
        """Nothing is left of the repository that would be ours to delete."""
        self._present.discard(key)
        await asyncio.to_thread(self._write)

    def _all(self) -> dict[str, list[list[str]]]:
        try:
            found = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as exc:
            log.warning("the list of catalogs served before is unreadable", extra={"error": str(exc)})
            return {}
        return found if isinstance(found, dict) else {}

    def _read(self) -> set[RepositoryKey]:
        return {RepositoryKey(namespace, name) for namespace, name in self._all().get(self._etcd, ())}

    def _write(self) -> None:
        rolls = {**self._all(), self._etcd: [[key.namespace, key.name] for key in sorted(self._present)]}
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_bytes(orjson.dumps(rolls, option=orjson.OPT_INDENT_2))
            fresh.replace(self._path)
        except OSError as exc:
            message = "catalogs taken out of the configuration will stay served: the data directory cannot be written"
            log.warning(message, extra={"error": str(exc)})
