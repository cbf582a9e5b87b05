"""What the server has, found by what people call it. All of it reads; one question or a few each.

A package is called by its object's name (`example.broom`) or its own (`broom`); a revision by its object's name
(`example.broom.0.2.0`), or by a package and what is behind an @ (`broom@0.2.0`, `sites/berlin@v3`); without that the
package's latest one is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from cacheserver.client.connection import ClientError, Connection, Object, RefusedError, as_object

API: Final = "/apis/cacheserver.dev/v1alpha1"
CONFIG_API: Final = "/apis/config.cacheserver.dev/v1alpha1"
LATEST: Final = "cacheserver.dev/latest"
_PAGE: Final = 500
_MOST: Final = 200_000
_SHOWN: Final = 5
_PARTS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Catalog:
    """One namespace of a server, or with namespace "" all of them."""

    connection: Connection
    namespace: str

    def path(self, resource: str, name: str = "", below: str = "", *, api: str = API, **query: str) -> str:
        """Of a resource, of an object of it, or of what is below that object; query: what is empty is left out."""
        space = f"/namespaces/{quote(self.namespace, safe='')}" if self.namespace else ""
        parts = "".join(f"/{quote(part, safe='')}" for part in (name, *below.split("/")) if part)
        asked = urlencode({option: text for option, text in query.items() if text})
        return f"{api}{space}/{resource}{parts}" + (f"?{asked}" if asked else "")

    def get(self, resource: str, name: str, below: str = "", **query: str) -> Object:
        """One object. Raises: RefusedError, ClientError."""
        return as_object(self.connection.get(self.path(resource, name, below, **query)))

    def search(self, text: str, *, fields: str = "", limit: int = 0) -> Sequence[Object]:
        """Packages, the best first (docs/finding.md, Search)."""
        query = {"search": text, "fieldSelector": fields, "limit": str(limit or "")}
        return self._page(self.path("packages", **query))[0]

    def list(self, resource: str, *, api: str = API, fields: str = "", labels: str = "") -> Sequence[Object]:
        """All objects of a resource that the selectors take, in the server's order, read in pages."""
        return [one for page in self.pages(resource, api=api, fields=fields, labels=labels) for one in page]

    def pages(
        self, resource: str, *, api: str = API, fields: str = "", labels: str = "", order: str = ""
    ) -> Iterator[Sequence[Object]]:
        """As list(), a page at a time. order: another than that of names, where the server has one."""
        count, more = 0, ""
        while True:
            path = self.path(
                resource,
                api=api,
                fieldSelector=fields,
                labelSelector=labels,
                order=order,
                limit=str(_PAGE),
                **{"continue": more},
            )
            items, about = self._page(path)
            yield items
            count += len(items)
            more = about.get("continue", "")
            if not more:
                return
            if count > _MOST:
                raise ClientError(f"over {_MOST} {resource}: select some of them")

    def begin(self, resource: str, *, fields: str = "") -> str:
        """The resource version to watch from. Raises: RefusedError, ClientError."""
        return str(self._page(self.path(resource, fieldSelector=fields, limit="1"))[1]["resourceVersion"])

    def _page(self, path: str) -> tuple[Sequence[Object], Object]:
        """Items, and what is said of the list. Raises: RefusedError, ClientError."""
        page = as_object(self.connection.get(path))
        items, about = page.get("items"), page.get("metadata")
        if not isinstance(items, list) or not isinstance(about, dict):
            raise ClientError("the answer is no list: is that a cacheserver?")
        return items, about

    def package(self, text: str) -> Object:
        """The package that `text` names. Raises: ClientError where there is none, or more than one."""
        if _is_object_name(text) and (found := self._object("packages", text)):
            return found
        named = self.list("packages", fields=f"spec.packageName={text}") if _selectable(text) else ()
        if named:
            return _only(named, f"package {text}")
        return self._missed("packages", text)

    def revision(self, text: str, *lifecycles: str) -> Object:
        """The revision that `text` names; see the module. lifecycles: where it names a package alone, its only revision
        that is one of these is meant. Raises: ClientError where there is none, or more than one."""
        named, at, version = text.rpartition("@")
        if at:
            return _version(self.revisions(named), named, version)
        if _is_object_name(text) and (found := self._object("packagerevisions", text)):
            return found
        try:
            there = self.revisions(text)
        except RefusedError:
            return self._missed("packagerevisions", text)
        if lifecycles:
            meant = [one for one in there if one["spec"]["lifecycle"] in lifecycles]
            if not meant:
                raise ClientError(f"{text} has no revision that is {' or '.join(lifecycles)}")
            return _only(meant, f"a revision of {text} that is {' or '.join(lifecycles)}")
        latest = [one for one in there if LATEST in (one["metadata"].get("labels") or {})]
        if not latest:
            raise ClientError(f"{text} has no published revision; it has {_some(there)}")
        return latest[0]

    def revisions(self, text: str) -> Sequence[Object]:
        """The revisions of the package that `text` names, at least one; the highest version first, before it what has
        none yet. Raises: ClientError where there is no such package, or more than one."""
        fields = f"spec.packageName={text}" if _selectable(text) else ""
        if _is_object_name(text) and (package := self._object("packages", text)):
            spec = package["spec"]
            fields = f"spec.repository={spec['repository']},spec.packageName={spec['packageName']}"
        found = self.list("packagerevisions", fields=fields) if fields else ()
        packages = sorted({f"{one['spec']['repository']}.{one['spec']['packageName']}" for one in found})
        if len(packages) > 1:
            names = ", ".join(name.replace("/", ".") for name in packages[:_SHOWN])
            raise ClientError(f"package {text} is there {len(packages)} times; name one of {names}")
        if not found:
            self._missed("packages", text)
            raise ClientError(f"package {text} has no revision")
        return sorted(found, key=_height, reverse=True)

    def _missed(self, resource: str, text: str) -> Object:
        """Asked for the server's words, which may know what was meant; it may have come in the meantime."""
        try:
            return self.get(resource, text)
        except RefusedError as exc:
            if exc.reason != "NotFound":
                raise
            word = text.rpartition("/")[2].partition("@")[0]
            raise RefusedError(
                f"{exc}; `kubectl cacheserver search {word}` finds packages by words", exc.reason
            ) from None

    def _object(self, resource: str, name: str) -> Object | None:
        try:
            return self.get(resource, name)
        except RefusedError as exc:
            if exc.reason != "NotFound":
                raise
            return None


def _version(there: Sequence[Object], named: str, version: str) -> Object:
    for field in ("version", "revision", "workspaceName"):
        found = [one for one in there if one["spec"].get(field) == version]
        if found:
            return _only(found, f"{named}@{version}")
    raise ClientError(f"{named} has no version {version}; it has {_some(there)}")


def _some(there: Sequence[Object]) -> str:
    more = ", ..." if len(there) > _SHOWN else ""
    return ", ".join(said_version(one) for one in there[:_SHOWN]) + more


def said_version(revision: Mapping[str, Any]) -> str:
    """By which people call it: its version, else its revision, else its workspace."""
    spec = revision["spec"]
    return str(spec.get("version") or spec.get("revision") or spec.get("workspaceName") or "")


def _selectable(text: str) -> bool:
    """Whether it may stand in a field selector as it is."""
    return bool(text) and not set(text) & set(",=!\\")


def _is_object_name(text: str) -> bool:
    """Whether it may be one: those begin with their repository's name and a dot. Else a question is saved."""
    return "." in text and "/" not in text


def _only(found: Sequence[Object], what: str) -> Object:
    if len(found) == 1:
        return found[0]
    names = [one["metadata"]["name"] for one in found]
    more = ", ..." if len(names) > _SHOWN else ""
    raise ClientError(f"{what} is there {len(names)} times; name one of {', '.join(names[:_SHOWN])}{more}")


def _height(revision: Object) -> tuple[object, ...]:
    """Sorts versions as people read them: numbers by value, a prerelease below its release, drafts on top."""
    if revision["spec"].get("lifecycle") in ("Draft", "Proposed"):
        return (2, revision["metadata"]["creationTimestamp"])
    text = said_version(revision).partition("+")[0]
    if not any(digit.isdigit() for digit in text):
        return (0, text)  # a branch
    core, dash, pre = text.lstrip("v").partition("-")
    return (1, _natural(core), not dash, _natural(pre), said_version(revision))


def _natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    parts = (part for part in _PARTS.split(text) if part not in ("", "."))
    # isdecimal: `²` is a digit, and no number.
    return tuple((not part.isdecimal(), int(part[:20]) if part.isdecimal() else 0, part) for part in parts)
