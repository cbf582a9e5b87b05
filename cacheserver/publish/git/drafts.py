"""Which drafts are to be pushed, and when: a while after the last save, all together; less often while git is away.

Bounded by the drafts that there are; a repository's are read once a second at most. Called by publisher.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Final

from cacheserver import metrics
from cacheserver.config import RepositoryConfig
from cacheserver.errors import SourceError
from cacheserver.model import Key, RepositoryKey
from cacheserver.slotted import slotted
from cacheserver.store.authored import Authored, Draft

LONGEST_S: Final = 30.0
"""After the first save that git does not have, however many follow: what the loss of etcd costs at most."""
_READ_EVERY_S: Final = 1.0
_AWAY_S: Final = (2.0, 60.0)
"""Between two tries while the remote is away: at first, and at most."""


@slotted()
class _Known:
    """Of one repository. read_at, try_at: Unix time before which drafts are not read, or not pushed."""

    read_at: float = 0.0
    try_at: float = 0.0
    failures: int = 0
    held_back: dict[Key, tuple[int, float]] = field(default_factory=dict)
    """Draft -> its last save, and until when it is left alone."""


class Drafts:
    """Which drafts git does not have, and when they are to be pushed, of all repositories of a process."""

    def __init__(self, authored: Authored, now: Callable[[], float]) -> None:
        self._authored = authored
        self._now = now
        self._known: dict[RepositoryKey, _Known] = {}

    async def due(
        self, config: RepositoryConfig, *, everything: bool = False, looked: bool = False
    ) -> tuple[Sequence[Key], float | None]:
        """Drafts to be pushed now, and the seconds until the next ones, None where there are none.

        everything: all that git does not have. looked: some were pushed just now, read them again.
        """
        known, now = self._known.setdefault(config.key, _Known()), self._now()
        if now < known.read_at and not everything and not looked:
            return (), known.read_at - now
        drafts = await self._authored.drafts(config.key)
        known.read_at = now + min(_READ_EVERY_S, max(config.push_after_s, 0.1))
        unpushed = {key: draft for key, draft in drafts.items() if draft.unpushed_ms}
        known.held_back = {key: said for key, said in known.held_back.items() if key in unpushed}
        _measure(config.key, unpushed)
        if everything:
            return list(unpushed), None
        times = {key: self._time(key, draft, config.push_after_s, known) for key, draft in unpushed.items()}
        due = [key for key, at in times.items() if at <= now]
        later = min((at for at in times.values() if at > now), default=None)
        if due and looked:
            return due, known.read_at - now
        return due, None if later is None else max(later - now, 0.05)

    def _time(self, key: Key, draft: Draft, push_after_s: float, known: _Known) -> float:
        """When it is to be pushed."""
        at = min(draft.saved_ms / 1000 + push_after_s, draft.unpushed_ms / 1000 + LONGEST_S)
        if at > self._now() + LONGEST_S:
            at = 0.0  # saved by a replica whose clock runs ahead
        saved_ms, until = known.held_back.get(key, (0, 0.0))
        return max(at, known.try_at, until if saved_ms == draft.saved_ms else 0.0)

    def hold_back(self, key: Key, draft: Draft, seconds: float) -> None:
        """A draft that cannot be pushed is not due again for so long, unless it is saved."""
        known = self._known.setdefault(RepositoryKey(key.namespace, key.repository), _Known())
        known.held_back[key] = draft.saved_ms, self._now() + seconds

    def tell(self, repository: RepositoryKey, error: SourceError | None) -> None:
        """Whether git could be worked with."""
        known = self._known.setdefault(repository, _Known())
        known.failures = known.failures + 1 if error is not None else 0
        first, most = _AWAY_S
        known.try_at = self._now() + min(first * 2 ** min(known.failures - 1, 10), most) if error is not None else 0.0

    def forget(self, repository: RepositoryKey) -> None:
        """Nothing is remembered of a repository that went."""
        self._known.pop(repository, None)


def _measure(repository: RepositoryKey, unpushed: Mapping[Key, Draft]) -> None:
    labels = repository.namespace, repository.name
    metrics.drafts_unpushed.labels(*labels).set(len(unpushed))
    oldest = min((draft.unpushed_ms for draft in unpushed.values()), default=0)
    metrics.drafts_oldest_unpushed.labels(*labels).set(oldest / 1000)
