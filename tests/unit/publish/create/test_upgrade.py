"""What a package is after an upgrade, by strategy and by what was changed on each side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from cacheserver.errors import RefusedError
from cacheserver.publish.create.tasks import Clone
from cacheserver.publish.create.upgrade import Asked, Strategy, Upgrade
from cacheserver.publish.package import File

FAST, FORCE = Strategy.FAST_FORWARD, Strategy.FORCE_DELETE_REPLACE
RESOURCE = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\n"
OLD = {"repo": "https://git.example/cat.git", "directory": "x", "ref": "x/v1", "commit": "1" * 40}
NEW = {**OLD, "ref": "x/v2", "commit": "2" * 40}


def kptfile(name: str = "x", **fields: Any) -> bytes:
    top = {"apiVersion": "kpt.dev/v1", "kind": "Kptfile", "metadata": {"name": name}, **fields}
    return yaml.safe_dump(top, sort_keys=False).encode()


def package(files: Mapping[str, bytes] | None = None, **fields: Any) -> dict[str, File]:
    return {path: File(raw) for path, raw in {"Kptfile": kptfile(**fields), **(files or {})}.items()}


def upgraded(
    strategy: Strategy, original: dict[str, File] | None, updated: dict[str, File], local: dict[str, File], **how: Any
) -> dict[str, File]:
    asked = Asked("cat.x.w2", strategy, "cat.x.w1")
    return Upgrade("site", asked, "edge.site.w1", (OLD, NEW), **how).files(original, updated, local)


def clone(original: dict[str, File], *, deployment: bool = False) -> dict[str, File]:
    return Clone("site", "cat.x.w1", OLD, deployment=deployment).files(original)


@pytest.mark.parametrize("deployment", [False, True])
def test_a_clone_that_nobody_changed_takes_the_update(deployment: bool) -> None:
    original = package({"a.yaml": RESOURCE, "gone.txt": b"1", "package-context.yaml": b"a: 1\n"})
    updated = package({"a.yaml": RESOURCE + b"data: {k: v}\n", "new.txt": b"2"}, info={"description": "two"})
    found = upgraded(FAST, original, updated, clone(original, deployment=deployment), deployment=deployment)
    about = yaml.safe_load(found["Kptfile"].content)
    assert about["metadata"]["name"] == "site"
    assert about["info"] == {"description": "two"}
    git = {key: NEW[key] for key in ("repo", "directory", "ref")}
    assert about["upstream"] == {"type": "git", "git": git}
    assert about["upstreamLock"] == {"type": "git", "git": {**git, "commit": "2" * 40}}
    assert found.keys() - {"package-context.yaml"} == {"Kptfile", "a.yaml", "new.txt"}
    assert ("package-context.yaml" in found) == deployment
    assert found["a.yaml"].content.endswith(b"data: {k: v}\n")
    assert b"# kpt-merge: /web" in found["a.yaml"].content


CHANGES: dict[str, tuple[dict[str, File], list[str]]] = {
    "a file": ({"a.yaml": File(RESOURCE + b"data: {}\n")}, ["a.yaml"]),
    "a mode": ({"run": File(b"1", executable=True)}, ["run"]),
    "a new file": ({"own.txt": File(b"1")}, ["own.txt"]),
    "a field of the Kptfile": ({"Kptfile": File(kptfile("site", info={"description": "own"}))}, ["Kptfile"]),
    "its status": ({"Kptfile": File(kptfile("site", status={"conditions": []}))}, []),
    "its upstream": ({"Kptfile": File(kptfile("site", upstream={"type": "git", "git": {"repo": "r"}}))}, []),
    "without merge comments": ({"a.yaml": File(RESOURCE)}, []),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_fast_forward_names_what_was_changed(change: tuple[dict[str, File], list[str]]) -> None:
    files, named = change
    original = package({"a.yaml": RESOURCE, "run": b"1"})
    local = {**clone(original), **files}
    if not named:
        assert upgraded(FAST, original, package({"b": b"1"}), local).keys() == {"Kptfile", "b"}
        return
    with pytest.raises(RefusedError) as refused:
        upgraded(FAST, original, package(), local)
    assert refused.value.code == 422
    assert f"local package files have been modified: {', '.join(named)};" in str(refused.value)


def test_fast_forward_names_a_file_that_was_deleted() -> None:
    original = package({"a.yaml": RESOURCE, "b": b"1"})
    local = {path: file for path, file in clone(original).items() if path != "b"}
    with pytest.raises(RefusedError, match="modified: b;"):
        upgraded(FAST, original, original, local)


def test_by_force_the_update_is_taken_whole() -> None:
    original = package({"a.yaml": RESOURCE, "b": b"1"})
    local = {**clone(original), "a.yaml": File(b"own: 1\n"), "own.txt": File(b"1")}
    found = upgraded(FORCE, original, package({"a.yaml": RESOURCE, "c": b"3"}), local)
    assert found.keys() == {"Kptfile", "a.yaml", "c"}
    assert found["a.yaml"].content != b"own: 1\n"


GATES = {"readinessGates": [{"conditionType": "example.com/checked"}]}
PIPELINE = {"mutators": [{"image": "set-labels:v1"}]}
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "own gates stay": ({}, {}, {"info": GATES}, {"info": GATES}),
    "what the update changes is taken": (
        {"pipeline": PIPELINE}, {"pipeline": {"mutators": []}}, {"pipeline": PIPELINE}, {"pipeline": {"mutators": []}},
    ),
    "of both, the update's": (
        {"info": {"description": "1"}}, {"info": {"description": "2"}}, {"info": {"description": "3"}},
        {"info": {"description": "2"}},
    ),
    "what was taken out stays out": ({"pipeline": PIPELINE}, {"pipeline": PIPELINE}, {}, {}),
    "what the update takes out goes": ({"pipeline": PIPELINE}, {}, {"pipeline": PIPELINE}, {}),
    "an inventory of its own stays": ({}, {}, {"inventory": {"name": "i"}}, {"inventory": {"name": "i"}}),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS.values(), ids=FIELDS)
def test_fields_of_the_kptfile_are_merged(
    case: tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    original, updated, local, wanted = case
    found = upgraded(FORCE, package(**original), package(**updated), package(name="site", **local))
    about = yaml.safe_load(found["Kptfile"].content)
    assert {name: about[name] for name in ("info", "pipeline", "inventory") if about.get(name)} == wanted


def test_by_force_an_original_that_nobody_has_is_not_needed() -> None:
    local = package({"a": b"1"}, name="site", info=GATES)
    about = yaml.safe_load(upgraded(FORCE, None, package(), local)["Kptfile"].content)
    assert about["info"] == GATES


def test_the_task_is_as_porch_writes_it() -> None:
    made = Upgrade("site", Asked("cat.x.w2", FAST, "cat.x.w1"), "edge.site.w1", (OLD, NEW))
    assert made.task() == {
        "type": "upgrade",
        "upgrade": {
            "oldUpstreamRef": {"name": "cat.x.w1"},
            "newUpstreamRef": {"name": "cat.x.w2"},
            "localPackageRevisionRef": {"name": "edge.site.w1"},
            "strategy": "fast-forward",
        },
    }
