"""Paths beside the API's resources: a table that says who answers what lies below each first step.

Other protocols bring routes of their own to Api; nothing here knows what is behind a route. Called by app, for every
request that names no resource, after the gate let it pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp.web_request import BaseRequest

from cacheserver import metrics
from cacheserver.api.http.reply import Reply, Stream, whole
from cacheserver.api.status import method_not_allowed, no_such_path
from cacheserver.security.identity import Attributes
from cacheserver.slotted import slotted

READ_METHODS: Final = ("GET", "HEAD")


@slotted(frozen=True)
class PathRequest:
    """A request for a path. path: decoded, as sent otherwise; query: as sent, without the question mark."""

    request: BaseRequest
    path: str
    query: str


@slotted(frozen=True)
class Route:
    """Who answers /FIRST, and with `below` all under it.

    answer: raises StatusError, 404 for what it does not have, and any CacheServerError. listed: what the index at /
    describes it; None: /FIRST itself. right: what one has to be allowed instead of the path.
    """

    first: str
    answer: Callable[[PathRequest], Awaitable[Reply | Stream]]
    below: bool = False
    methods: tuple[str, ...] = READ_METHODS
    listed: tuple[str, ...] | None = None
    right: Callable[[Attributes], Attributes] | None = None


class Paths:
    """The table. One per process."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Raises: ValueError when two routes want the same paths."""
        self._routes: dict[str, Route] = {}
        for route in routes:
            if self._routes.setdefault(route.first, route) is not route:
                raise ValueError(f"two routes want /{route.first}")

    def right(self, attributes: Attributes) -> Attributes:
        """What whoever asks for a path has to be allowed: the path, unless its route says otherwise."""
        route = self._routes.get(attributes.path.strip("/").partition("/")[0])
        return attributes if route is None or route.right is None else route.right(attributes)

    async def answer(self, asked: PathRequest) -> Reply | Stream:
        """Raises: StatusError 404 where there is no route, 405 for a method that the route does not know; its own."""
        first, _, rest = asked.path.strip("/").partition("/")
        route = self._routes.get(first)
        if route is None:
            raise no_such_path()
        if asked.request.method not in route.methods:
            raise method_not_allowed("", "", "", ", ".join(route.methods))
        if rest and not route.below:
            raise no_such_path()
        return await route.answer(asked)


def listed(routes: Iterable[Route]) -> list[str]:
    """What the index at / lists of these routes."""
    return [path for route in routes for path in ((f"/{route.first}",) if route.listed is None else route.listed)]


async def _metrics(asked: PathRequest) -> Reply:
    # In a thread: a thousand series take milliseconds to print.
    body = await asyncio.to_thread(metrics.exposition)
    return whole(body, content_type=metrics.EXPOSITION_TYPE)


METRICS: Final = Route("metrics", _metrics)
"""Prometheus' text format of everything in metrics.py."""
