"""The seam for access control: asked first, with the attributes of Kubernetes' RequestInfo."""

from __future__ import annotations

import pytest
from aiohttp import web

from cacheserver.api import Identity
from cacheserver.api.attributes import Attributes, parse_query, read_attributes
from cacheserver.api.status import StatusError
from tests.fakes.api import api_world


class OnlyVersion:
    """Lets everybody see /version and nothing else."""

    async def identify(self, request: web.BaseRequest) -> Identity:
        return Identity("somebody")

    async def authorize(self, identity: Identity, attributes: Attributes) -> None:
        if attributes.path != "/version":
            raise StatusError(403, "Forbidden", f'User "{identity.user}" may not {attributes.verb}')


async def test_forbidden_takes_precedence_over_not_found() -> None:
    async with api_world(gate=OnlyVersion()) as world:
        for path in ("packages", "packages?watch=1", "no-such-resource", "/nope", "/metrics", "/apis"):
            answer = await world.get(path)
            assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
        assert (await world.get("/version")).status == 200


GROUP = "/apis/cacheserver.dev/v1alpha1"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", f"{GROUP}/packages", ("list", "packages", "", "", "")),
        ("GET", f"{GROUP}/packages?watch=true", ("watch", "packages", "", "", "")),
        ("GET", f"{GROUP}/packages?watch", ("watch", "packages", "", "", "")),
        ("GET", f"{GROUP}/packages?watch=False", ("list", "packages", "", "", "")),
        ("HEAD", f"{GROUP}/packages?watch=true", ("list", "packages", "", "", "")),
        ("GET", f"{GROUP}/packages?fieldSelector=metadata.name%3Dx", ("list", "packages", "", "", "x")),
        ("GET", f"{GROUP}/packages?fieldSelector=metadata.name%21%3Dx", ("list", "packages", "", "", "")),
        ("GET", f"{GROUP}/namespaces/n/packages/x?watch=true", ("get", "packages", "", "n", "x")),
        ("GET", f"{GROUP}/namespaces/n/packages/x/icon", ("get", "packages", "icon", "n", "x")),
        ("GET", f"{GROUP}/namespaces/n/packages/x%2Ficon", ("get", "packages", "icon", "n", "x")),
        ("POST", f"{GROUP}/namespaces/n/packages", ("create", "packages", "", "n", "")),
        ("PUT", f"{GROUP}/namespaces/n/packages/x", ("update", "packages", "", "n", "x")),
        ("PATCH", f"{GROUP}/namespaces/n/packages/x", ("patch", "packages", "", "n", "x")),
        ("DELETE", f"{GROUP}/namespaces/n/packages/x", ("delete", "packages", "", "n", "x")),
        ("DELETE", f"{GROUP}/namespaces/n/packages", ("deletecollection", "packages", "", "n", "")),
        ("GET", f"{GROUP}/namespaces/n", ("get", "namespaces", "", "", "n")),
        ("GET", "/apis/cacheserver.dev", ("get", "", "", "", "")),
        ("GET", "/healthz", ("get", "", "", "", "")),
    ],
)
def test_attributes_are_read_as_kubernetes_reads_them(
    method: str, path: str, expected: tuple[str, str, str, str, str]
) -> None:
    url, _, query = path.partition("?")
    found = read_attributes(method, url, parse_query(query))
    assert (found.verb, found.resource, found.subresource, found.namespace, found.name) == expected
