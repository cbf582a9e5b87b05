"""How the client finds what people call by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from cacheserver.client.catalog import Catalog, said_version
from cacheserver.client.connection import ClientError, Object, RefusedError


def revision(
    name: str, version: str, *, repository: str = "r", lifecycle: str = "Published", latest: bool = False
) -> Object:
    return {
        "kind": "PackageRevision",
        "metadata": {
            "name": f"{repository}.{name}.{version}",
            "creationTimestamp": "2026-11-20T10:00:00Z",
            "labels": {"cacheserver.dev/latest": "true"} if latest else {},
        },
        "spec": {"repository": repository, "packageName": name, "version": version, "lifecycle": lifecycle},
        "status": {},
    }


class Served:
    """A connection to a server that has these revisions, in pages of two."""

    namespace = "default"

    def __init__(self, *revisions: Object) -> None:
        self.revisions = revisions
        self.asked: list[str] = []

    def get(self, path: str) -> bytes:
        self.asked.append(path)
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        resource, _, name = parts.path.partition("/namespaces/default/")[2].partition("/")
        found: Sequence[Object] = self.revisions if resource == "packagerevisions" else self._packages()
        if name:
            for one in found:
                if one["metadata"]["name"] == unquote(name):
                    return json.dumps(one).encode()
            raise RefusedError(f'{resource} "{unquote(name)}" not found', "NotFound")
        wanted = dict(term.split("=") for term in query.get("fieldSelector", "").split(",") if term)
        taken = [one for one in found if all(one["spec"][term.split(".")[1]] == text for term, text in wanted.items())]
        at = int(query.get("continue", "0"))
        more = {"continue": str(at + 2)} if at + 2 < len(taken) else {}
        return json.dumps({"items": taken[at : at + 2], "metadata": more}).encode()

    def send(self, verb: str, path: str, body: object = None) -> Object:
        raise AssertionError((verb, path, body))

    def _packages(self) -> Sequence[Object]:
        specs = {(one["spec"]["repository"], one["spec"]["packageName"]) for one in self.revisions}
        return [
            {
                "kind": "Package",
                "metadata": {"name": f"{r}.{p}"},
                "spec": {"repository": r, "packageName": p},
                "status": {},
            }
            for r, p in sorted(specs)
        ]


def catalog(*revisions: Object) -> Catalog:
    return Catalog(Served(*revisions), "default")


def test_versions_come_as_people_read_them() -> None:
    written = ["1.2.0", "1.10.0", "1.10.0-rc.2", "1.10.0-rc.10", "1.9.0", "1.10.0-alpha"]
    found = catalog(*(revision("app", one) for one in written), revision("app", "next", lifecycle="Draft"))
    assert [said_version(one) for one in found.revisions("app")] == [
        "next", "1.10.0", "1.10.0-rc.10", "1.10.0-rc.2", "1.10.0-alpha", "1.9.0", "1.2.0",
    ]  # fmt: skip


def test_no_version_is_too_odd_to_be_sorted() -> None:
    written = ["1.0.0", "²", "v٣", "1.²", "½", "", "v", "-", "1." + "9" * 5000]
    found = catalog(*(revision("app", one) for one in written)).revisions("app")
    assert sorted(said_version(one) for one in found) == sorted(written)


def test_a_package_alone_means_its_latest_or_the_only_one_that_can_be_meant() -> None:
    found = catalog(revision("app", "1"), revision("app", "2", latest=True), revision("app", "w", lifecycle="Draft"))
    assert said_version(found.revision("app")) == "2"
    assert said_version(found.revision("app", "Draft")) == "w"
    assert said_version(found.revision("app@1")) == "1"
    assert said_version(found.revision("r.app.w")) == "w"
    with pytest.raises(ClientError, match="app has no revision that is Proposed"):
        found.revision("app", "Proposed")


def test_who_names_nothing_that_is_there_is_told_how_to_look_for_it() -> None:
    found = catalog(revision("app", "1"))
    for miss in (found.package, found.revisions, found.revision):
        with pytest.raises(
            RefusedError, match=r'"ledger" not found; `kubectl cacheserver search ledger` finds'
        ) as told:
            miss("ledger")
        assert told.value.reason == "NotFound"


def test_one_name_in_two_repositories_is_asked_about() -> None:
    found = catalog(revision("app", "1"), revision("app", "1", repository="s"))
    with pytest.raises(ClientError, match=r"there 2 times; name one of r\.app, s\.app"):
        found.revisions("app")
    assert found.revision("s.app@1")["spec"]["repository"] == "s"


def test_no_name_becomes_another_question() -> None:
    for text in ("a,spec.repository=s", "../../../../api/v1/secrets", "a?watch=1", "a#b", "ä", "", "a=b"):
        served = Served(revision("app", "1"))
        with pytest.raises(ClientError):
            Catalog(served, "default").revision(text)
        for path in served.asked:
            assert path.startswith("/apis/cacheserver.dev/v1alpha1/namespaces/default/package")
            assert ".." not in path.split("/")
            assert "watch" not in parse_qs(urlsplit(path).query)
            assert "#" not in path


def test_a_namespace_is_one_part_of_a_path() -> None:
    assert (
        Catalog(Served(), "a/../../b")
        .path("packages")
        .startswith("/apis/cacheserver.dev/v1alpha1/namespaces/a%2F..%2F..%2Fb/")
    )


@pytest.mark.parametrize("said", [b"<html>log in</html>", b"[]", b"3", b"{}", b'{"items": 3, "metadata": {}}', b""])
def test_what_answers_and_is_no_cacheserver_is_told_in_words(said: bytes) -> None:
    class Other(Served):
        def get(self, path: str) -> bytes:
            return said

    for ask in (Catalog.package, Catalog.revision, Catalog.search, Catalog.list):
        with pytest.raises(ClientError, match=r"is that a cacheserver|no object"):
            ask(Catalog(Other(), "default"), "app")
    with pytest.raises(ClientError):
        Catalog(Other(), "default").begin("packages")
