"""What a request asks for, read from method, path and query alone: verb, group, resource, namespace, name.

The one place that does so (k8s: RequestInfo, k8s.io/apiserver/pkg/endpoints/request/requestinfo.go). Routing,
authorization and metrics all go by its answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, unquote

from cacheserver.access import Attributes

__all__ = ["Attributes", "Query", "parse_query", "read_attributes", "truthy"]

_ITEM_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SELECTING = ("list", "watch", "deletecollection")
_ONE_NAME = re.compile(r"(?:^|,)metadata\.name==?([^,=!\\/%]+)(?:,|$)")

_SHORT = 512
_NO_QUERY: Mapping[str, str] = {}

Query = Mapping[str, str]
"""Query parameters; of a repeated one the first (Go: url.Values.Get)."""


def parse_query(text: str) -> Query:
    """Remembered for short texts: clients ask the same over and over."""
    if not text:
        return _NO_QUERY
    return _parse_short(text) if len(text) <= _SHORT else _parse(text)


def _parse(text: str) -> Query:
    query: dict[str, str] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        query.setdefault(key, value)
    return query


_parse_short = lru_cache(maxsize=1024)(_parse)


def truthy(value: str | None) -> bool:
    """Kubernetes' boolean parameters: absent, `0` and `false` are false, all else (the empty string too) is true."""
    return value is not None and value.lower() not in ("0", "false")


def read_attributes(method: str, path: str, query: Query) -> Attributes:
    """path: as sent, still percent-encoded."""
    if "%" in path:
        path = unquote(path)  # Go decodes before it splits: %2F separates
    parts = path.strip("/").split("/")
    if parts[0] != "apis" or len(parts) < 4:
        return Attributes(method.lower(), path)
    namespace, at = "", 3
    if parts[3] == "namespaces" and len(parts) > 5:
        namespace, at = parts[4], 5
    count = len(parts) - at
    if count > 3:
        return Attributes(method.lower(), path)
    name = parts[at + 1] if count > 1 else ""
    subresource = parts[at + 2] if count > 2 else ""
    verb = _ITEM_VERBS.get(method) or method.lower()
    if not name:
        if verb == "get":
            verb = "watch" if method == "GET" and truthy(query.get("watch")) else "list"
            if "fieldSelector" in query and (fixed := _ONE_NAME.search(query["fieldSelector"])):
                name = fixed[1]  # one object's list or watch may be allowed where all objects' is not
        elif verb == "delete":
            verb = "deletecollection"
    fields = labels = ""
    if query and verb in _SELECTING:
        fields, labels = query.get("fieldSelector", ""), query.get("labelSelector", "")
    return Attributes(verb, path, parts[1], parts[2], parts[at], subresource, namespace, name, fields, labels)
