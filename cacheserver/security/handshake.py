"""What a WebSocket's handshake says of who asks: browsers can set no header of it but the subprotocols.

So Kubernetes takes a bearer token as one of these (k8s.io/apiserver/pkg/authentication/request/websocket/protocol.go).
Judges no token. Called by authenticators, and by the API (api/http/websocket.py), which never answers with one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.web_request import BaseRequest

from cacheserver.security.users import bearer_token

_BEARER: Final = "base64url.bearer.authorization.k8s.io."


def asks_for_websocket(request: BaseRequest) -> bool:
    """Whether a GET asks to go on as a WebSocket. HTTP/1.0 knows no upgrades (RFC 9110, section 7.8)."""
    headers = request.headers
    if "Upgrade" not in headers or headers["Upgrade"].lower() != "websocket":
        return False
    words = {word.strip().lower() for line in headers.getall("Connection", ()) for word in line.split(",")}
    return "upgrade" in words and request.method == "GET" and request.version >= HttpVersion11


def subprotocols(request: BaseRequest) -> Sequence[str]:
    """All that a handshake offers, in its order, without tokens."""
    return [name for name in _offered(request) if not name.startswith(_BEARER)]


def sent_token(request: BaseRequest) -> str:
    """The bearer token of a request, from its Authorization header, else from a handshake's subprotocols; empty when it
    has none, or none that Kubernetes would take: it stands there once, beside another subprotocol to be answered."""
    token = bearer_token(request.headers.get("Authorization", ""))
    if token or not asks_for_websocket(request):
        return token
    offered = _offered(request)
    tokens = [name[len(_BEARER) :] for name in offered if name.startswith(_BEARER)]
    if len(tokens) != 1 or len(offered) == 1:
        return ""
    try:
        if set(tokens[0]) & set("+/="):
            return ""
        return base64.b64decode(tokens[0] + "=" * (-len(tokens[0]) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _offered(request: BaseRequest) -> Sequence[str]:
    lines = request.headers.getall("Sec-WebSocket-Protocol", ())
    return [name for line in lines for word in line.split(",") if (name := word.strip())]
