"""JSON schemas and operations of the served kinds, in OpenAPI v3's words, from their declarations.

What clients need of them: x-kubernetes-group-version-kind on kinds (a list) and operations (one), x-kubernetes-action,
selectable fields. `kubectl explain` shows every description.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cacheserver.api.attributes import FILES
from cacheserver.api.http.reply import JSON, YAML
from cacheserver.api.kinds.change import PACKAGE_CHANGE
from cacheserver.api.kinds.package import PACKAGE
from cacheserver.api.kinds.resource import (
    Field,
    Resource,
    Subresource,
    Type,
    flag,
    number,
    records,
    text,
    text_map,
    texts,
    time,
)

Json = dict[str, object]

_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1"
_TABLE: Final = f"{JSON};as=Table;v=v1;g=meta.k8s.io"

OBJECT_META: Final = (
    text("name", "Unique in the namespace, for one kind."),
    text("namespace", "Namespace of the object."),
    text("uid", "Identity over time: derived from kind, namespace and name, so it survives a rebuilt cache."),
    text("resourceVersion", "Version of the object: the etcd revision of its last change. Opaque to clients."),
    number("generation", "Counts the changes of spec."),
    time("creationTimestamp", "When the object was first seen."),
    text_map("labels", "Labels, for selecting."),
    text_map("annotations", "Annotations."),
    records(
        "ownerReferences",
        "Objects without which it goes, as its users wrote them.",
        text("apiVersion", "API version of the owner.", required=True),
        text("kind", "Kind of the owner.", required=True),
        text("name", "Name of the owner.", required=True),
        text("uid", "Identity of the owner.", required=True),
        flag("controller", "True when the owner controls this object."),
        flag("blockOwnerDeletion", "True when the owner waits for this object's deletion."),
    ),
    texts("finalizers", "What is to be done before the object goes; who is done takes its own out."),
    time("deletionTimestamp", "When its deletion was asked for."),
    number("deletionGracePeriodSeconds", "Always 0."),
    text("generateName", "Has no effect: the name of a package revision follows from its spec."),
    text("selfLink", "Has no effect."),
    records("managedFields", "Has no effect."),
)
_LIST_META: Final = (
    text("resourceVersion", "Version of the list; a watch may begin there."),
    text("continue", "Token that fetches the next page; empty on the last."),
    number("remainingItemCount", "How many items follow this page; only without selectors."),
)


def components(resources: Iterable[Resource]) -> Json:
    """The schemas of the kinds, their lists, and what those refer to."""
    found: Json = {
        f"{_META}.ObjectMeta": {
            "type": "object",
            "description": "Metadata that all objects have.",
            "properties": _properties(OBJECT_META),
        },
        f"{_META}.ListMeta": {
            "type": "object",
            "description": "Metadata that all lists have.",
            "properties": _properties(_LIST_META),
        },
    }
    for row in resources:
        found[_name(row, row.kind)] = _kind_schema(row)
        if not row.virtual:
            found[_name(row, row.list_kind)] = _list_schema(row)
    return found


def _name(row: Resource, kind: str) -> str:
    """`dev.cacheserver.v1alpha1.Package`: kube's way to name schemas."""
    return f"{'.'.join(reversed(row.group.split('.')))}.{row.version}.{kind}"


def _gvk(row: Resource, kind: str) -> Json:
    return {"group": row.group, "version": row.version, "kind": kind}


def _type_meta() -> Json:
    return {
        "apiVersion": {"type": "string", "description": "Group and version of the API."},
        "kind": {"type": "string", "description": "Kind of the object."},
    }


def _kind_schema(row: Resource) -> Json:
    return {
        "type": "object",
        "description": row.description,
        "properties": {
            **_type_meta(),
            "metadata": _described_reference("Standard metadata.", f"{_META}.ObjectMeta"),
            **_properties([part for part in (row.spec, row.status) if part is not None]),
        },
        "x-kubernetes-group-version-kind": [_gvk(row, row.kind)],
        "x-kubernetes-selectable-fields": [{"fieldPath": path} for path in row.selectable],
    }


def _list_schema(row: Resource) -> Json:
    return {
        "type": "object",
        "description": f"A list of {row.kind}.",
        "required": ["items"],
        "properties": {
            **_type_meta(),
            "metadata": _described_reference("Standard list metadata.", f"{_META}.ListMeta"),
            "items": {
                "type": "array",
                "description": "The objects, by namespace and name.",
                "items": _reference(_name(row, row.kind)),
            },
        },
        "x-kubernetes-group-version-kind": [_gvk(row, row.list_kind)],
    }


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _described_reference(description: str, name: str) -> Json:
    return {"description": description, "allOf": [_reference(name)]}


def _properties(fields: Sequence[Field]) -> Json:
    return {field.name: _field_schema(field) for field in fields}


def _field_schema(field: Field) -> Json:
    described: Json = {"description": field.description}
    match field.type:
        case Type.STRING:
            enum = {"enum": list(field.enum)} if field.enum else {}
            return {**described, "type": "string", **enum}
        case Type.TIME:
            return {**described, "type": "string", "format": "date-time"}
        case Type.INTEGER:
            return {**described, "type": "integer", "format": "int64"}
        case Type.BOOLEAN:
            return {**described, "type": "boolean"}
        case Type.STRINGS:
            allowed = {"enum": list(field.enum)} if field.enum else {}
            return {**described, "type": "array", "items": {"type": "string", **allowed}}
        case Type.MAP:
            return {**described, "type": "object", "additionalProperties": {"type": "string"}}
        case Type.OBJECT:
            return {**described, **_object_schema(field)}
        case Type.OBJECTS:
            return {**described, "type": "array", "items": _object_schema(field)}


def _object_schema(field: Field) -> Json:
    required = [inner.name for inner in field.fields if inner.required]
    schema: Json = {"type": "object", "properties": _properties(field.fields)}
    if required:
        schema["required"] = required
    return schema


# --- operations ---------------------------------------------------------------------------------------------------


def _parameter(name: str, where: str, type_: str, description: str) -> Json:
    found: Json = {"name": name, "in": where, "description": description, "schema": {"type": type_}}
    if where == "path":
        found["required"] = True
    return found


_NAMESPACE: Final = _parameter("namespace", "path", "string", "Namespace of the objects.")
_OBJECT_NAME: Final = _parameter("name", "path", "string", "Name of the object.")
_FILE_PATH: Final = _parameter("path", "path", "string", "Path of the file in the package, with slashes.")
_EXECUTABLE: Final = _parameter("executable", "query", "boolean", "Whether the file can be run; it stays as it is.")
_PRETTY: Final = _parameter("pretty", "query", "string", "If true, the answer is indented.")
_VERSION: Final = _parameter(
    "resourceVersion", "query", "string", "How fresh the answer must be; 0: any state will do."
)
_FIELD_VALIDATION: Final = _parameter("fieldValidation", "query", "string", "How a manifest is checked.")
_LIST: Final = (
    _parameter("labelSelector", "query", "string", "Only objects whose labels match."),
    _parameter("fieldSelector", "query", "string", "Only objects whose fields match; see the selectable fields."),
    _VERSION,
    _parameter("resourceVersionMatch", "query", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    _parameter("limit", "query", "integer", "Most objects on a page; the answer then says how to go on."),
    _parameter("continue", "query", "string", "Token of the page to go on from."),
    _parameter("watch", "query", "boolean", "Stream changes instead of listing."),
    _parameter("allowWatchBookmarks", "query", "boolean", "Send BOOKMARK events now and then."),
    _parameter("sendInitialEvents", "query", "boolean", "Begin a watch with the present state, closed by a bookmark."),
    _parameter("timeoutSeconds", "query", "integer", "When the server ends a watch."),
    _PRETTY,
)
_OF_KIND: Final = {
    PACKAGE.plural: (
        _parameter(
            "search",
            "query",
            "string",
            "Only packages that have these words, or nearly, the best first; 100 without a limit.",
        ),
    ),
    PACKAGE_CHANGE.plural: (
        _parameter("order", "query", "string", "`newest`: the newest first, of all namespaces; else by name."),
    ),
}


def operations(resources: Iterable[Resource]) -> dict[str, Mapping[str, object]]:
    """OpenAPI path items of the resources and of their group-versions."""
    paths: dict[str, Mapping[str, object]] = {}
    for row in resources:
        base = f"/apis/{row.api_version}"
        paths.setdefault(f"{base}/", _discovery_item(row))
        collection = f"{base}/namespaces/{{namespace}}/{row.plural}"
        if row.virtual:
            everywhere, within = (_writes(row, _ON_COLLECTION, "", all_namespaces=each) for each in (True, False))
            paths[f"{base}/{row.plural}"] = {**everywhere, "parameters": []}
            paths[collection] = {**within, "parameters": [_NAMESPACE]}
            paths[f"{collection}/{{name}}"] = {"patch": _refused_write(row), "parameters": [_OBJECT_NAME, _NAMESPACE]}
            continue
        paths[f"{base}/{row.plural}"] = _list_item(row, every_namespace=True)
        if not row.namespaced:
            paths[f"{base}/{row.plural}/{{name}}"] = {**_get_item(row), "parameters": [_OBJECT_NAME]}
            continue
        paths[collection] = {**_list_item(row, every_namespace=False), **_writes(row, _ON_COLLECTION, "")}
        paths[f"{collection}/{{name}}"] = {**_get_item(row), **_writes(row, _ON_OBJECT, "")}
        for sub in row.subresources:
            path = f"{collection}/{{name}}/{sub.name}"
            if sub.name == FILES:
                paths[f"{path}/{{path}}"] = _file_item(row, sub)
            else:
                paths[path] = {**_subresource_item(row, sub), **_writes(row, _ON_SUBRESOURCE, sub.name)}
    return paths


def _identity(row: Resource, action: str, part: str) -> str:
    group = "".join(word.capitalize() for word in row.group.split("."))
    return f"{action}{group}{row.version.capitalize()}{part}"


def _responses(media_types: Sequence[str], schema: Json) -> Json:
    content = {media_type: {"schema": schema} for media_type in media_types}
    return {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}}


def _operation(row: Resource, action: str, verb: str, description: str, part: str, responses: Json) -> Json:
    return {
        "tags": [_identity(row, "", "")],
        "operationId": _identity(row, verb, part),
        "description": description,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(row, row.kind),
        "responses": responses,
    }


def _discovery_item(row: Resource) -> Json:
    responses = {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}}
    return {
        "get": {
            "tags": [_identity(row, "", "")],
            "operationId": _identity(row, "get", "APIResources"),
            "description": "The resources of this group and version.",
            "responses": responses,
        }
    }


def _list_item(row: Resource, *, every_namespace: bool) -> Json:
    part = f"{row.kind}ForAllNamespaces" if every_namespace and row.namespaced else _part(row)
    description = f"List or watch objects of kind {row.kind}." if "watch" in row.verbs else f"List {row.kind}."
    responses = _responses((JSON, YAML, _TABLE), _reference(_name(row, row.list_kind)))
    operation = _operation(row, "list", "list", description, part, responses)
    operation["parameters"] = [*_LIST, *_OF_KIND.get(row.plural, ())]
    return {"get": operation, "parameters": [] if every_namespace else [_NAMESPACE]}


def _part(row: Resource) -> str:
    return f"Namespaced{row.kind}" if row.namespaced else row.kind


def _get_item(row: Resource) -> Json:
    responses = _responses((JSON, YAML, _TABLE), _reference(_name(row, row.kind)))
    operation = _operation(row, "get", "read", f"Read one {row.kind}.", _part(row), responses)
    operation["parameters"] = [_VERSION, _PRETTY]
    refused = {} if "patch" in row.verbs else {"patch": _refused_write(row)}
    return {"get": operation, **refused, "parameters": [_OBJECT_NAME, _NAMESPACE]}


def _refused_write(row: Resource) -> Json:
    """A patch, with nothing but its refusal.

    kubectl looks for fieldValidation here before it sends a manifest (k8s.io/cli-runtime, pkg/resource:
    query_param_verifier_v3.go). Where it finds none it fails on a schema that it cannot read, and the refusal, which
    says what to do instead, is never heard.
    """
    description = f"Refused: {row.instead}."
    operation = _operation(row, "patch", "patch", description, _part(row), {})
    operation["responses"] = {"405": {"description": description}}
    operation["parameters"] = [_FIELD_VALIDATION]
    return operation


_ON_COLLECTION: Final = {"create": ("post", "post"), "deletecollection": ("delete", "deletecollection")}
_ON_OBJECT: Final = {"update": ("put", "put"), "patch": ("patch", "patch"), "delete": ("delete", "delete")}
_ON_SUBRESOURCE: Final = {**_ON_OBJECT, "create": ("post", "post")}
"""Verb -> (method, x-kubernetes-action) of what writes."""

_DRY_RUN: Final = _parameter("dryRun", "query", "string", "All: answer as if, and change nothing.")
_MANAGER: Final = _parameter("fieldManager", "query", "string", "Who writes; has no effect.")
_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json")


def _writes(
    row: Resource, verbs: Mapping[str, tuple[str, str]], subresource: str, *, all_namespaces: bool = False
) -> Json:
    """Operations that change something, as far as the resource has them."""
    found: Json = {}
    part = f"Namespaced{row.kind}{subresource.capitalize()}"
    if all_namespaces:
        part = f"{row.kind}ForAllNamespaces"
    whole = _reference(_name(row, row.kind))
    for verb, (method, action) in verbs.items():
        if verb not in row.verbs_of(subresource):
            continue
        responses = _responses((JSON, YAML), {"type": "object"} if action.startswith("delete") else whole)
        if verb == "create":
            responses["201"] = responses["200"]
        name = "Collection" if verb == "deletecollection" else ""
        said = f"{verb.capitalize()} {row.kind}."
        operation = _operation(row, action, action, said, f"{name}{part}", responses)
        operation["parameters"] = [_DRY_RUN, _PRETTY]
        if not action.startswith("delete"):
            operation["parameters"] = [_DRY_RUN, _FIELD_VALIDATION, _MANAGER, _PRETTY]
            types = _PATCHES if verb == "patch" else (JSON, YAML)
            body = {"type": "object"} if verb == "patch" else whole
            content = {each: {"schema": body} for each in types}
            operation["requestBody"] = {"content": content, "required": not (verb == "create" and subresource)}
        found[method] = operation
    return found


def _file_item(row: Resource, sub: Subresource) -> Json:
    """PUT and DELETE of one file."""
    found: Json = {"parameters": [_OBJECT_NAME, _NAMESPACE, _FILE_PATH]}
    for method, action in (("put", "put"), ("delete", "delete")):
        responses = _responses((JSON, YAML), _reference(_name(row, row.kind)))
        operation = _operation(row, action, action, sub.description, f"Namespaced{row.kind}Files", responses)
        operation["parameters"] = [_DRY_RUN, _EXECUTABLE] if method == "put" else [_DRY_RUN]
        if method == "put":
            schema = {"type": "string", "format": "binary"}
            operation["requestBody"] = {"content": {"*/*": {"schema": schema}}, "required": True}
        found[method] = operation
    return found


def _subresource_item(row: Resource, sub: Subresource) -> Json:
    if "get" not in sub.verbs:
        return {"parameters": [_OBJECT_NAME, _NAMESPACE]}
    if sub.whole:
        responses = _responses(sub.media_types, _reference(_name(row, row.kind)))
    else:
        responses = _responses(sub.media_types, {"type": "string", "format": "binary"})
    part = f"Namespaced{row.kind}{sub.name.capitalize()}"
    operation = _operation(row, "get", "read", sub.description, part, responses)
    if sub.parameters:
        operation["parameters"] = [_parameter(name, "query", "string", said) for name, said in sub.parameters]
    return {"get": operation, "parameters": [_OBJECT_NAME, _NAMESPACE]}
