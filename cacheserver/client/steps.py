"""The verbs that take a revision through its life (docs/authoring.md): init, clone, copy, upgrade, propose, approve,
reject, rebase, delete; and sync, which has a repository looked at."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cacheserver.client.catalog import CONFIG_API, Catalog
from cacheserver.client.connection import ClientError, Object, RefusedError, as_object
from cacheserver.client.output import Output

_PROPOSED: Final = ("Proposed", "DeletionProposed")
_TRIES: Final = 3
_EVERY_S: Final = 1.0
_PATIENCE_S: Final = 300.0
_GOES_ON: Final = ("Timeout", "ServerTimeout")
"""Reasons of a 504: what was asked is under way, and goes on (docs/authoring.md, `What git does is waited for`)."""


def init(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A draft of a new package."""
    said = {"description": asked.description, "site": asked.site, "keywords": asked.keywords}
    given = {name: value for name, value in said.items() if value}
    return _created(catalog, asked, output, {"init": given} if given else None)


def clone(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A draft that begins as a published revision of another package, of any repository of the namespace, or of a
    git repository elsewhere."""
    origin: dict[str, Any]
    if "://" in asked.origin:
        found = {"url": asked.origin, "ref": asked.ref, "directory": asked.directory}
        origin = {"git": {name: text for name, text in found.items() if text}}
        if asked.secret:
            origin["git"]["secretRef"] = {"name": asked.secret}
    else:
        origin = {"revision": catalog.revision(asked.origin)["metadata"]["name"]}
    return _created(catalog, asked, output, {"clone": origin})


def copy(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A draft that begins as an earlier revision of the same package."""
    origin = catalog.revision(asked.origin)
    asked.repository, asked.package = origin["spec"]["repository"], origin["spec"]["packageName"]
    return _created(catalog, asked, output, {"copy": {"revision": origin["metadata"]["name"]}})


def upgrade(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A draft of a cloned package that takes a newer revision of what it was cloned from."""
    package = catalog.package(asked.package)
    asked.repository, asked.package = package["spec"]["repository"], package["spec"]["packageName"]
    to = catalog.revision(asked.to)["metadata"]["name"]
    return _created(catalog, asked, output, {"upgrade": {"to": to, "strategy": asked.strategy}})


def _created(catalog: Catalog, asked: Namespace, output: Output, source: Mapping[str, Any] | None) -> int:
    spec = {
        "repository": asked.repository,
        "packageName": asked.package,
        "workspaceName": asked.workspace or datetime.now(UTC).strftime("w%Y%m%d-%H%M%S"),
        **({"source": source} if source is not None else {}),
    }
    draft = {
        "apiVersion": "cacheserver.dev/v1alpha1",
        "kind": "PackageRevision",
        "metadata": {"namespace": catalog.namespace},
        "spec": spec,
    }
    made = catalog.connection.send("create", catalog.path("packagerevisions"), draft)
    _told(output, made, "created")
    output.say(f"edit it: kubectl cacheserver pull {made['metadata']['name']}")
    return 0


def propose(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Draft to Proposed, so that somebody who may approves it."""

    def proposed(one: Object) -> Object | None:
        if one["spec"]["lifecycle"] == "Proposed" and asked.version in ("", one["spec"].get("version")):
            return None
        one["spec"]["lifecycle"] = "Proposed"
        if asked.version:
            one["spec"]["version"] = asked.version
        return one

    name = catalog.revision(asked.revision, "Draft")["metadata"]["name"]
    return _stepped(catalog, name, output, proposed, "proposed")


def approve(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Proposed to Published, with its tag in git; what is proposed for deletion is deleted."""
    one = catalog.revision(asked.revision, *_PROPOSED)
    if one["spec"]["lifecycle"] == "DeletionProposed":
        return _deleted(catalog, one, output)

    def published(one: Object) -> Object | None:
        if one["spec"]["lifecycle"] == "Published":
            return None
        one["spec"]["lifecycle"] = "Published"
        if asked.version:
            one["spec"]["version"] = asked.version
        return one

    return _stepped(catalog, one["metadata"]["name"], output, published, "published", "approval")


def reject(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Proposed to Draft; what is proposed for deletion is kept."""

    def rejected(one: Object) -> Object | None:
        to = {"Proposed": "Draft", "DeletionProposed": "Published"}.get(one["spec"]["lifecycle"])
        if to is None:
            raise ClientError(
                f"{one['metadata']['name']} is {one['spec']['lifecycle']}: only what is proposed, or proposed for "
                "deletion, is rejected"
            )
        one["spec"]["lifecycle"] = to
        return one

    name = catalog.revision(asked.revision, *_PROPOSED)["metadata"]["name"]
    return _stepped(catalog, name, output, rejected, "rejected", "approval")


def rebase(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Brings a draft onto the newest published revision of its package."""
    one = catalog.revision(asked.revision, "Draft")
    name = one["metadata"]["name"]
    meant = {"metadata": {"uid": one["metadata"]["uid"]}}
    made = catalog.connection.send("create", catalog.path("packagerevisions", name, "rebase"), meant)
    same = made["metadata"]["resourceVersion"] == one["metadata"]["resourceVersion"]
    _told(output, made, "is where it belongs" if same else "rebased")
    return 0


def delete(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A draft goes; a published revision is proposed for deletion, which somebody who may approves."""
    one = catalog.revision(asked.revision)
    if one["spec"]["lifecycle"] == "Published":

        def leaving(one: Object) -> Object | None:
            if one["spec"]["lifecycle"] == "DeletionProposed":
                return None
            one["spec"]["lifecycle"] = "DeletionProposed"
            return one

        name = one["metadata"]["name"]
        code = _stepped(catalog, name, output, leaving, "proposed for deletion", "approval")
        output.say(f"delete it: kubectl cacheserver approve {name}; keep it: kubectl cacheserver reject {name}")
        return code
    if one["spec"]["lifecycle"] == "DeletionProposed":
        raise ClientError(
            f"{one['metadata']['name']} is proposed for deletion already: "
            f"kubectl cacheserver approve {one['metadata']['name']} deletes it"
        )
    return _deleted(catalog, one, output)


def sync(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Has a repository's source looked at now, in a cluster."""
    path = catalog.path("repositories", asked.repository, api=CONFIG_API)
    for left in reversed(range(_TRIES)):
        one = as_object(catalog.connection.get(path))
        notes = one["metadata"].setdefault("annotations", {})
        notes["cacheserver.dev/requestedAt"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            catalog.connection.send("replace", path, one)
        except RefusedError as exc:
            if exc.reason == "MethodNotAllowed":
                raise ClientError(
                    "this server has its repositories from files, and looks at all of them when it gets a SIGHUP: "
                    "kill -HUP its process"
                ) from exc
            if exc.reason != "Conflict" or not left:
                raise
        else:
            break
    output.line(f"repository {asked.repository} is looked at")
    return 0


def _stepped(
    catalog: Catalog, name: str, output: Output, change: Callable[[Object], Object | None], done: str, below: str = ""
) -> int:
    """Writes what `change` makes of the revision as it is now; None: it is so already. Waits for git."""
    for left in reversed(range(_TRIES)):
        one = catalog.get("packagerevisions", name)
        uid = one["metadata"]["uid"]
        wanted = change(one)
        if wanted is None:
            _told(output, one, f"is {done} already")
            return 0
        try:
            made = catalog.connection.send("replace", catalog.path("packagerevisions", name, below), wanted)
        except RefusedError as exc:
            if exc.reason == "Conflict" and left:
                continue
            if exc.reason not in _GOES_ON:
                raise
            made = _awaited(catalog, name, uid, wanted["spec"]["lifecycle"], output)
        _told(output, made, done)
        return 0
    raise AssertionError("unreachable")


def _awaited(catalog: Catalog, name: str, uid: str, lifecycle: str, output: Output) -> Object:
    """The revision once git has what was asked. Raises: ClientError where it failed, or takes too long."""
    began = time.monotonic()
    output.say(f"git takes its time; {name} is waited for (^C leaves it to go on)")
    while time.monotonic() - began < _PATIENCE_S:
        one = catalog.get("packagerevisions", name)
        if one["metadata"]["uid"] != uid:
            raise ClientError(f"{name} was deleted and made again meanwhile")
        if one["spec"]["lifecycle"] == lifecycle:
            return one
        if not one["status"].get("operation"):
            last = one["status"].get("lastOperation") or {}
            raise ClientError(f"{name} did not become {lifecycle}: {last.get('message', 'nobody says why')}")
        time.sleep(_EVERY_S)
    raise ClientError(f"{name} is not {lifecycle} after {_PATIENCE_S:g} s; it goes on: kubectl cacheserver show {name}")


def _deleted(catalog: Catalog, one: Object, output: Output) -> int:
    catalog.connection.send("delete", catalog.path("packagerevisions", one["metadata"]["name"]))
    _told(output, one, "deleted")
    return 0


def _told(output: Output, one: Object, done: str) -> None:
    """What was done, in the form that was asked for."""
    if output.form in ("json", "yaml"):
        output.document(one)
    elif output.form == "name":
        output.objects([one], ())
    else:
        output.line(f"{one['metadata']['name']} {done}")
