"""A question about one object, answered below it: what it was asked with, and what every such answer refuses alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp.web_request import BaseRequest

from cacheserver.api.attributes import Query
from cacheserver.api.content import IMAGE_SAFETY
from cacheserver.api.http.budget import Share
from cacheserver.api.http.negotiate import Encoding, choose, wants_pretty
from cacheserver.api.http.reply import JSON, Reply, header
from cacheserver.api.readable import readable
from cacheserver.api.status import StatusError, bad_request, brief, not_acceptable
from cacheserver.cache.snapshot import Entry
from cacheserver.slotted import slotted

_COMMON: Final = ("pretty", "resourceVersion", "timeout")
_LONGEST: Final = 1024
"""Of a parameter, in characters. Names have 253."""
_INDENTED_BYTES: Final = 64 << 10
"""Of an answer that is indented for people: 2 ms."""


@slotted(frozen=True)
class Question:
    """A request for an answer about one package. user: whose turn it takes."""

    request: BaseRequest
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


def form_of(request: BaseRequest, query: Query, offered: Mapping[str, str]) -> str:
    """Which form the answer is to have, of `offered`: media type -> name of a form. By format=NAME, or else by Accept,
    where the first is the one for who takes anything. Raises: StatusError 400, 406."""
    form = query.get("format", "")
    names = dict.fromkeys(offered.values())
    if form and form not in names:
        raise bad_request(f"format={brief(form)}: there are {', '.join(names)}")
    if form:
        return form
    media_type = choose(request.headers.get("Accept", ""), tuple(offered))
    if media_type is None:
        raise not_acceptable(tuple(offered))
    return offered[media_type]


def too_much(message: str) -> StatusError:
    """400, with where else the answer is."""
    return bad_request(f"{message}; its channels and edges are in the status of its PackageRevisions")


async def sent(question: Question, body: bytes, media_type: str) -> Reply:
    """The answer, which has been sent; its bytes are held in the readers' budget until they are taken.

    JSON is indented for who wants that, where it is small. Raises: StatusError 429.
    """
    request, safety = question.request, header("X-Content-Type-Options", "nosniff")
    content_type = media_type
    if media_type == "image/svg+xml":
        safety = IMAGE_SAFETY
    elif media_type != JSON:
        content_type = f"{media_type}; charset=utf-8"
    elif len(body) <= _INDENTED_BYTES and wants_pretty(question.query, request.headers.get("User-Agent", "")):
        body = readable(body, Encoding.JSON, pretty=True)
    async with question.share.hold(len(body)):  # it is whole in memory until it is taken
        extra = question.extra + header("Vary", "Accept") + safety
        reply = Reply(200, (body,), len(body), content_type=content_type, extra=extra)
        await reply.send(request)
    return reply
