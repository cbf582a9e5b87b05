"""A question about one object, answered below it: what it was asked with, and what every such answer refuses alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from cacheserver.api.attributes import Query
from cacheserver.api.http.budget import Share
from cacheserver.api.status import StatusError, bad_request, brief
from cacheserver.cache.snapshot import Entry

_COMMON: Final = ("pretty", "resourceVersion", "timeout")
_LONGEST: Final = 1024
"""Of a parameter, in characters. Names have 253."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request for an answer about one package. user: whose turn it takes."""

    request: web.BaseRequest
    query: Query
    package: Entry
    share: Share
    user: str
    extra: bytes


def check(query: Query, known: Sequence[str]) -> None:
    """Returns when nothing else was asked with. Raises: StatusError 400."""
    for name, text in query.items():
        if name not in known and name not in _COMMON:
            raise bad_request(f"no parameter {brief(name)!r} is known here: there are {', '.join(known)}")
        if len(text) > _LONGEST:
            raise bad_request(f"{name} has {len(text)} characters, at most {_LONGEST} are read")


def too_much(message: str) -> StatusError:
    """400, with where else the answer is."""
    return bad_request(f"{message}; its channels and edges are in the status of its PackageRevisions")
