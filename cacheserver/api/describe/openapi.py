"""OpenAPI v3 and v2 of what is served, made once from the resource rows, and the rules they are served by.

Serving rules: kube-openapi/pkg/handler3/handler.go and handler/handler.go. JSON only: a client that asks for protobuf
alone gets 406, never JSON in its place (kubectl would take it for protobuf).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from urllib.parse import parse_qs

from aiohttp.web_request import BaseRequest

from cacheserver.api.describe.schema import components, operations
from cacheserver.api.http.documents import Document, document
from cacheserver.api.http.negotiate import choose
from cacheserver.api.http.reply import JSON, NO_CACHE, Reply, header
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.status import no_such_path

_YEAR_S = 365 * 86400
_REFERENCE_V3 = "#/components/schemas/"
_REFERENCE_V2 = "#/definitions/"

Json = Mapping[str, object]


class OpenAPI:
    """Answers /openapi/v2, /openapi/v3 and /openapi/v3/apis/GROUP/VERSION."""

    def __init__(self, resources: Sequence[Resource], version: str) -> None:
        info = {"title": "cacheserver", "version": f"v{version}"}
        self._v3: dict[str, Document] = {}
        for api_version in sorted({row.api_version for row in resources}):
            rows = [row for row in resources if row.api_version == api_version]
            content = {
                "openapi": "3.0.0",
                "info": info,
                "paths": operations(rows),
                "components": {"schemas": components(rows)},
            }
            self._v3[f"apis/{api_version}"] = document(content)
        paths = {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={found.hash}"} for path, found in self._v3.items()
        }
        self._root = document({"paths": paths})
        self._v2 = document(
            {
                "swagger": "2.0",
                "info": info,
                "paths": {path: _path_v2(item) for path, item in operations(resources).items()},
                "definitions": _references_v2(components(resources)),
            }
        )

    def answer(self, request: BaseRequest, path: str, query: str, now: float) -> Reply:
        """now: seconds since the epoch. Raises: StatusError 404."""
        path = path.strip("/").removeprefix("openapi/")
        found = {"v2": self._v2, "v3": self._root}.get(path) or self._v3.get(path.removeprefix("v3/"))
        if found is None:
            raise no_such_path()
        if choose(request.headers.get("Accept", ""), [JSON]) is None:
            return Reply(406, content_type="")
        if found is self._v2 or found is self._root:
            return found.reply(request)
        wanted = parse_qs(query).get("hash", [""])[0]
        if not wanted:
            return found.reply(request, cache_control=NO_CACHE)
        if wanted != found.hash:
            location = f"/openapi/{path}?hash={found.hash}"
            return Reply(301, content_type="", extra=header("Location", location))
        expires = header("Expires", formatdate(now + _YEAR_S, usegmt=True))
        return found.reply(request, cache_control="public, immutable", extra=expires)


def _references_v2(node: object) -> object:
    """References where v2 keeps them; an `allOf` of one reference (v3's way to describe it) loses its wrapping."""
    if isinstance(node, Mapping):
        wrapped = node.get("allOf")
        if isinstance(wrapped, list) and len(wrapped) == 1:
            return _references_v2({**wrapped[0], "description": node.get("description", "")})
        return {key: _references_v2(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_references_v2(value) for value in node]
    if isinstance(node, str) and node.startswith(_REFERENCE_V3):
        return _REFERENCE_V2 + node.removeprefix(_REFERENCE_V3)
    return node


def _path_v2(item: Json) -> Json:
    out: dict[str, object] = {}
    for key, value in item.items():
        if key == "parameters":
            out[key] = _parameters_v2(value)
        elif isinstance(value, Mapping):
            out[key] = _operation_v2(value)
    return out


def _operation_v2(operation: Json) -> Json:
    """An operation with its media types beside it instead of below each answer."""
    out = dict(operation)
    out["schemes"] = ["https"]
    out["consumes"] = ["*/*"]
    responses: dict[str, object] = {}
    found = operation["responses"]
    assert isinstance(found, Mapping)
    for code, response in found.items():
        content: Mapping[str, Json] = response.get("content", {})
        out["produces"] = list(content) or [JSON]
        schemas = [media["schema"] for media in content.values() if "schema" in media]
        responses[code] = {"description": response["description"]}
        if schemas:
            responses[code] = {"description": response["description"], "schema": _references_v2(schemas[0])}
    out["responses"] = responses
    parameters = _parameters_v2(operation.get("parameters", []))
    if body := out.pop("requestBody", None):
        assert isinstance(body, Mapping)
        out["consumes"] = list(body["content"])
        schema = next(iter(body["content"].values()))["schema"]
        parameters.append({"name": "body", "in": "body", "required": True, "schema": _references_v2(schema)})
    if parameters:
        out["parameters"] = parameters
    return out


def _parameters_v2(parameters: object) -> list[Json]:
    assert isinstance(parameters, list)
    flat: list[Json] = []
    for parameter in parameters:
        schema = parameter["schema"]
        flat.append({**{key: value for key, value in parameter.items() if key != "schema"}, **schema})
    return flat
