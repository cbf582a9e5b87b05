"""The first look at each repository: which are still to come, and what those under way do. For who waits at a start.

The looks report here (life.py); one task of the server waits. Decides nothing, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable

from cacheserver.model import RepositoryKey
from cacheserver.sources import Progress


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


class FirstLooks:
    """Of the repositories that a server starts with. progress: told what their first looks do, each by its name."""

    def __init__(self, keys: Iterable[RepositoryKey] = (), progress: Progress = no_progress) -> None:
        self._coming = dict.fromkeys(keys)
        self._progress = progress
        self._all_ended = asyncio.Event()
        if not self._coming:
            self._all_ended.set()

    @property
    def coming(self) -> tuple[RepositoryKey, ...]:
        """Whose first look has not ended, in the order given."""
        return tuple(self._coming)

    async def all_ended(self) -> None:
        """Returns once each has ended, with whatever outcome. Waits as long as that takes."""
        await self._all_ended.wait()

    def progress(self, key: RepositoryKey) -> Progress:
        """For a look at `key` that begins; only the first is watched."""
        return functools.partial(self._say, key.name) if key in self._coming else no_progress

    def ended(self, key: RepositoryKey) -> None:
        """A look at `key` ended."""
        if self._coming:
            self._coming.pop(key, None)
            if not self._coming:
                self._all_ended.set()

    def _say(self, name: str, what: str, done: int, total: int) -> None:
        self._progress(f"{name}: {what}", done, total)
