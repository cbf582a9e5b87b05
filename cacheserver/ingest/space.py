"""Whether etcd takes writes, as far as ingestion knows: learned from those whom it refused, asked again until it does.

Full, etcd refuses every put until somebody makes room and disarms its alarm. Everything else goes on meanwhile: reads,
the lease, deletes. One of these a process; `watch` is a task of ingestion's, `trouble` is read by health checks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, TypeVar

from cacheserver import metrics
from cacheserver.errors import EtcdError, LeaseLostError, NoSpace

log = logging.getLogger(__name__)

_ASK_EVERY_S: Final = 5.0
"""Ours: one refused put costs etcd nothing, and whoever made room waits no longer than this."""
_SAY_EVERY_S: Final = 60.0
"""The log repeats cause and remedy this often: whoever looks at it an hour later must find them."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
"""Between two tries of what etcd refused or did not answer."""

T = TypeVar("T")

TROUBLE: Final = (
    "etcd is full (NoSpace): reads and deletes work, nothing new is ingested. Make room: compact, defragment, then "
    "disarm the alarm (docs/troubleshooting.md)"
)
"""For health checks, which answer everybody: no address, no key."""


class Space:
    """See the module. ask_every_s: between two tries to write while etcd is full."""

    def __init__(self, *, ask_every_s: float = _ASK_EVERY_S) -> None:
        self._ask_every_s = ask_every_s
        self._full = asyncio.Event()
        self._said_at = float("-inf")

    @property
    def trouble(self) -> str | None:
        """What stands in the way of writing, and the remedy; None when nothing does."""
        return TROUBLE if self._full.is_set() else None

    def refused(self, error: NoSpace) -> None:
        """A write was refused for lack of space."""
        self._full.set()
        metrics.etcd_full.set(1)
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.warning(
                "etcd is full (NoSpace): nothing new is ingested until it has room", extra={"error": str(error)}
            )

    def taken(self) -> None:
        """A write was taken."""
        if self._full.is_set():
            log.info("etcd takes writes again")
        self._said_at = float("-inf")
        self._full.clear()
        metrics.etcd_full.set(0)

    async def watch(self, try_writing: Callable[[], Awaitable[None]], recovered: Callable[[], None]) -> NoReturn:
        """While etcd is full, try to write now and then; call `recovered` when it succeeds. Raises: LeaseLostError."""
        while True:
            await self._full.wait()
            await asyncio.sleep(self._ask_every_s)
            try:
                await try_writing()
            except NoSpace as exc:
                self.refused(exc)
            except LeaseLostError:
                raise
            except EtcdError:
                continue  # away: whether it is full is seen when it is back
            else:
                self.taken()
                recovered()

    async def retry(self, act: Callable[[], Awaitable[T]], what: str, *, full_too: bool = True) -> T:
        """What `act` returns, tried again while etcd is away or (full_too) full; `what` names it in the log.

        Neither may end anything else, least of all the lease, which a full etcd would not grant anew.
        Raises: LeaseLostError; NoSpace unless full_too.
        """
        pause_s, said = _FIRST_PAUSE_S, False
        while True:
            try:
                return await act()
            except LeaseLostError:
                raise
            except EtcdError as exc:
                if isinstance(exc, NoSpace):
                    self.refused(exc)
                    if not full_too:
                        raise
                elif not said:
                    log.warning("etcd refuses; it is tried again", extra={"what": what, "error": str(exc)})
                    said = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
