"""What a request asks for, read from method, path and query alone: verb, group, resource, namespace, name.

The one place that does so (k8s: RequestInfo, k8s.io/apiserver/pkg/endpoints/request/requestinfo.go). Routing,
authorization and metrics all go by its answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote

from cacheserver.api.status import bad_request
from cacheserver.security.identity import Attributes

__all__ = ["FILES", "Attributes", "Query", "check_size", "file_path", "parse_query", "read_attributes", "truthy"]

_ITEM_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SELECTING = ("list", "watch", "deletecollection")
_ONE_NAME = re.compile(r"(?:^|,)metadata\.name==?([^,=!\\/%]+)(?:,|$)")

PATH_CHARACTERS: Final = 2048
"""As sent. Namespace and name have 316 at most, three times that when every one of them is percent-encoded."""
QUERY_CHARACTERS: Final = 32 << 10
"""As sent: both selectors at their longest (query.py), every character of one and the commas of the other encoded."""
PARAMETERS: Final = 64
"""Of a query. Kubernetes' own list and watch options are 11."""
FILES: Final = "files"
"""The subresource below which a path goes on: that of a file (file_path)."""
_NO_QUERY: Mapping[str, str] = {}

Query = Mapping[str, str]
"""Query parameters; of a repeated one the first (Go: url.Values.Get)."""


def check_size(path: str, query: str) -> None:
    """path, query: as sent. Raises: StatusError 400 for what nobody needs; it is read before anybody is known."""
    for what, found, most in (
        ("path has {} characters", len(path), PATH_CHARACTERS),
        ("query has {} characters", len(query), QUERY_CHARACTERS),
        ("query has {} parameters", query.count("&") + 1, PARAMETERS),
    ):
        if found > most:
            raise bad_request(f"the {what.format(found)}, at most {most} are read")


def parse_query(text: str) -> Query:
    """Parameters decoded, blank ones kept; of one that is given twice the first counts, as with kube-apiserver."""
    if not text:
        return _NO_QUERY
    query: dict[str, str] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        query.setdefault(key, value)
    return query


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
    if count > 3 and parts[at + 2] != FILES:
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


def file_path(attributes: Attributes) -> str:
    """What stands behind `/files/`, as it is to be read; empty where nothing does."""
    # /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/files/PATH
    parts = attributes.path.lstrip("/").split("/", 8)
    return parts[8] if len(parts) > 8 else ""
