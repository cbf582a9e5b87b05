"""The seam for authentication and authorization: who asks, and may they. Without a gate everybody may everything.

The API calls the gate once a request, before it looks at the resource: forbidden takes precedence over not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from cacheserver.api.attributes import Attributes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks (k8s: user.Info)."""

    user: str
    groups: Sequence[str] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Gate(Protocol):
    async def identify(self, request: web.BaseRequest) -> Identity:
        """Raises: StatusError 401."""
        ...

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        """Raises: StatusError 403."""
        ...
