"""Bearer tokens from a file, as kube-apiserver's --token-auth-file has them: `token,user,uid,"group1,group2"` a line.

Format: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#static-token-file. Where kube-apiserver
takes a doubtful line and goes on (a token twice, no token, a fifth column), this refuses the file and names the line:
who writes the file means something, and would not learn that it counts for nothing. No message repeats what stands
in the file: it may be a token.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Mapping
from typing import Final

from cacheserver.security.identity import Identity
from cacheserver.security.users import ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, with_authenticated

LINES: Final = 10_000
"""Ours. Who has more users than that has something that issues tokens."""
TOKEN_CHARACTERS_LEAST: Final = 16
"""Ours: fewer can be guessed. 16 hexadecimal digits are 64 bits, for which a million guesses a second take ages."""
TOKEN_CHARACTERS_MOST: Final = 4096
"""Ours: more is not a key but a mistake. A header line has 64 KiB (api/connection.py)."""

_TOKEN: Final = re.compile(r"[!-+\--~]+\Z")
"""Printable ASCII without a comma. What a header cannot carry, or a space would cut, never matches a request."""
_OURS: Final = frozenset((AUTHENTICATED, UNAUTHENTICATED))


class Tokens:
    """Whom each token stands for."""

    def __init__(self, users: Mapping[str, Identity]) -> None:
        # By a digest under a key that nobody else has: how long a look-up takes says nothing about the token (nobody
        # can choose how a digest begins), and who reads our memory finds no token in it.
        self._key = os.urandom(32)
        self._users = {self._digest(token): user for token, user in users.items()}

    def identity(self, token: str) -> Identity | None:
        """Takes the same time for every token of a length, good or bad."""
        return self._users.get(self._digest(token))

    def __len__(self) -> int:
        return len(self._users)

    def _digest(self, token: str) -> bytes:
        # Not HMAC by OpenSSL, which gives the interpreter away and has to wait for it again, at each request.
        return hashlib.blake2b(token.encode(errors="surrogateescape"), key=self._key, digest_size=32).digest()


def parse_tokens(content: bytes) -> Tokens:
    """Raises: ValueError that names the line, and nothing that is in it."""
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ValueError(f"line {line}: it is not UTF-8") from None  # the cause holds the whole file
    users: dict[str, Identity] = {}
    first: dict[str, int] = {}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            line = rows.line_num
            if line > LINES:
                raise ValueError(f"it has more than {LINES} lines")
            if not row:
                continue  # Go's encoding/csv skips empty lines
            try:
                token, user = _user(row)
            except ValueError as exc:
                raise ValueError(f"line {line}: {exc}") from None
            if token in users:
                raise ValueError(f"line {line}: the token of line {first[token]} again")
            users[token], first[token] = user, line
    except csv.Error as exc:
        raise ValueError(f"line {rows.line_num}: {exc}") from None
    if not users:
        raise ValueError("it holds no token")
    return Tokens(users)


def _user(row: list[str]) -> tuple[str, Identity]:
    """Raises: ValueError, without words of the file."""
    if not 3 <= len(row) <= 4:
        raise ValueError(f'it has {len(row)} columns; write TOKEN,USER,UID or TOKEN,USER,UID,"GROUP,GROUP"')
    token, user, uid = row[:3]
    if not TOKEN_CHARACTERS_LEAST <= len(token) <= TOKEN_CHARACTERS_MOST:
        allowed = f"{TOKEN_CHARACTERS_LEAST} to {TOKEN_CHARACTERS_MOST}"
        raise ValueError(f"the token has {len(token)} characters, {allowed} are allowed: openssl rand -hex 32")
    if not _TOKEN.match(token):
        raise ValueError("the token holds a character other than printable ASCII: openssl rand -hex 32")
    groups = row[3].split(",") if len(row) > 3 and row[3] else []
    for what, name in (("user", user), *(("group", group) for group in groups)):
        if not name:
            raise ValueError(f"a {what} is empty")
        if not name.isprintable() or name != name.strip():
            raise ValueError(f"a {what} has spaces around it, or characters that cannot be printed")
    if uid and not uid.isprintable():
        raise ValueError("the uid has characters that cannot be printed")
    if user == ANONYMOUS or not _OURS.isdisjoint(groups):
        raise ValueError(f"{ANONYMOUS}, {AUTHENTICATED} and {UNAUTHENTICATED} are given by the server, not by a file")
    return token, Identity(user, with_authenticated(user, groups), uid)
