"""Kinds that are answered beside the watch cache: of other systems, few objects each, made of what is in memory.

Clients find them in discovery like any other kind, and requests for them are let in and counted alike; what they are,
and which versions they have, is their own business. Called by app; served by doors (compat/).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from cacheserver.api.http.reply import Reply, Stream
from cacheserver.api.kinds.resource import Resource

if TYPE_CHECKING:
    from cacheserver.api.verbs import Call


class KindBeside(Protocol):
    """One such kind."""

    @property
    def resource(self) -> Resource:
        """Its names, verbs and columns."""
        ...

    def answer(self, call: Call) -> Awaitable[Reply | Stream]:
        """Any verb. Raises, also when awaited: StatusError, any CacheServerError."""
        ...

    def end(self) -> None:
        """The server stops: no new watches, and open ones end soon."""
        ...
