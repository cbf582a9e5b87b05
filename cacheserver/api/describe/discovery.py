"""Discovery: which groups, versions and kinds there are; aggregated (v2) and one by one.

Answers whatever the store does. Built once, from the resource rows.
Forms: k8s.io/api/apidiscovery/v2, k8s.io/apiserver/pkg/endpoints/discovery.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from aiohttp.web_request import BaseRequest

from cacheserver.api.http.documents import Document, document
from cacheserver.api.http.negotiate import parse_accept
from cacheserver.api.http.reply import JSON, Reply
from cacheserver.api.kinds.resource import Resource
from cacheserver.api.status import StatusError, no_such_path, not_acceptable

_AGGREGATED = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Discovery:
    """Answers /, /api, /apis and what lies between /apis and the resources."""

    def __init__(self, resources: Sequence[Resource], other_paths: Sequence[str]) -> None:
        """other_paths: what else / lists."""
        groups = sorted({row.group for row in resources})  # cacheserver.dev sorts before config.cacheserver.dev
        by_group = {group: [row for row in resources if row.group == group] for group in groups}
        self._aggregated = {
            "/apis": _aggregated([_group_discovery(group, rows) for group, rows in by_group.items()]),
            "/api": _aggregated([]),
        }
        group_objects = [_group(group, rows) for group, rows in by_group.items()]
        self._plain: dict[str, Document] = {
            "/apis": document({"kind": "APIGroupList", "apiVersion": "v1", "groups": group_objects}),
            "/api": document({"kind": "APIVersions", "versions": [], "serverAddressByClientCIDRs": []}),
        }
        for group, rows in by_group.items():
            self._plain[f"/apis/{group}"] = document({"kind": "APIGroup", "apiVersion": "v1", **_group(group, rows)})
            for version in sorted({row.version for row in rows}):
                at_version = [row for row in rows if row.version == version]
                self._plain[f"/apis/{group}/{version}"] = document(_resource_list(at_version))
        self._plain[""] = document({"paths": sorted([*self._plain, *other_paths])})

    def answer(self, request: BaseRequest, path: str) -> Reply:
        """Raises: StatusError 404, 406."""
        path = path.rstrip("/")
        plain = self._plain.get(path)
        if plain is None:
            raise no_such_path()
        aggregated = self._aggregated.get(path)
        accept = request.headers.get("Accept", "")
        clauses = parse_accept(accept)
        if not clauses:
            return plain.reply(request)
        for clause in clauses:
            if not clause.covers(JSON):
                continue
            wanted = tuple(clause.parameters.get(name) for name in ("as", "g", "v"))
            if wanted == (None, None, None):
                return plain.reply(request)
            if aggregated is not None and wanted == ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2"):
                return aggregated.reply(request, cache_control="public")
        raise self._refusal(aggregated)

    def _refusal(self, aggregated: Document | None) -> StatusError:
        return not_acceptable([JSON] if aggregated is None else [JSON, JSON + _AGGREGATED])


def _aggregated(items: Sequence[object]) -> Document:
    content = {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }
    return document(content, parameters=_AGGREGATED)


def _group(group: str, rows: Sequence[Resource]) -> dict[str, object]:
    versions = [{"groupVersion": f"{group}/{v}", "version": v} for v in sorted({row.version for row in rows})]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _group_discovery(group: str, rows: Sequence[Resource]) -> dict[str, object]:
    versions = [
        {
            "version": version,
            "resources": [_resource_discovery(row) for row in rows if row.version == version],
            "freshness": "Current",
        }
        for version in sorted({row.version for row in rows})
    ]
    return {"metadata": {"name": group, "creationTimestamp": None}, "versions": versions}


def _resource_discovery(row: Resource) -> dict[str, object]:
    kind = {"group": row.group, "version": row.version, "kind": row.kind}
    found: dict[str, object] = {
        "resource": row.plural,
        "responseKind": kind,
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": sorted(row.verbs),
        "shortNames": row.short_names,
        "categories": row.categories,
    }
    if row.subresources:
        found["subresources"] = [
            {"subresource": sub.name, "responseKind": kind, "verbs": sorted(sub.verbs)} for sub in row.subresources
        ]
    return found


def _resource_list(rows: Sequence[Resource]) -> dict[str, object]:
    resources: list[dict[str, object]] = []
    for row in rows:
        named = f"{row.group}/{row.version}/{row.kind}".encode()
        resources.append(
            {
                "name": row.plural,
                "singularName": row.singular,
                "namespaced": row.namespaced,
                "kind": row.kind,
                "verbs": sorted(row.verbs),
                "shortNames": row.short_names,
                "categories": row.categories,
                # k8s.io/apiserver/pkg/endpoints/discovery/storageversionhash.go
                "storageVersionHash": base64.b64encode(hashlib.sha256(named).digest()[:8]).decode(),
            }
        )
        resources += [
            {
                "name": f"{row.plural}/{sub.name}",
                "singularName": "",
                "namespaced": row.namespaced,
                "kind": row.kind,
                "verbs": sorted(sub.verbs),
            }
            for sub in row.subresources
        ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": rows[0].api_version,
        "resources": resources,
    }
