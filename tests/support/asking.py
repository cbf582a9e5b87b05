"""GETs of a server under test, by urllib: read whole and closed, whatever is answered.

From Python 3.14 on an HTTPError that nobody closes warns, as any open file does, and a warning fails a test. None gets
out of here.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """status: as of HTTP. headers: found in any case. body: all of it."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RefusedError(OSError):
    """An answer of 400 or more, to somebody who cannot go on with that."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}: {answer.body[:500].decode(errors='replace')}")
        self.answer = answer


def ask(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 10,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """What is answered, refusals too. Raises: OSError where nobody answers."""
    request = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return Answer(exc.code, exc.headers, exc.read())


def take(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 10,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """As `ask`, and RefusedError, which is an OSError too, for an answer of 400 or more."""
    answer = ask(url, headers, timeout_s=timeout_s, context=context)
    if answer.status >= 400:
        raise RefusedError(answer)
    return answer
