"""A file that cannot be read takes nothing away: every package that it may speak of stays as it was, by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import Catalog
from tests.support.fbc import bundle
from tests.unit.catalogs.conftest import Parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

Documents = dict[str, list[dict[str, Any]]]
"""Path -> what is there."""


def package(name: str) -> dict[str, Any]:
    return {"schema": "olm.package", "name": name, "defaultChannel": "stable"}


def channel(owner: str, name: str = "stable") -> dict[str, Any]:
    return {"schema": "olm.channel", "package": owner, "name": name, "entries": [{"name": f"{owner}.v1.0.0"}]}


def deprecations(owner: str) -> dict[str, Any]:
    reference = {"schema": "olm.bundle", "name": f"{owner}.v1.0.0"}
    return {
        "entries": [{"reference": reference, "message": "old"}],
        "package": owner,
        "schema": "olm.deprecations",
    }


def parts(name: str) -> dict[str, list[dict[str, Any]]]:
    """A package by the kind of its documents: it stays good without `fast` and `deprecations`."""
    return {
        "package": [package(name)],
        "stable": [channel(name)],
        "fast": [channel(name, "fast")],
        "bundles": [bundle(name, "1.0.0")],
        "deprecations": [deprecations(name)],
    }


def whole(name: str) -> list[dict[str, Any]]:
    return [document for some in parts(name).values() for document in some]


# layout -> (files, the one that breaks, who is held of lamp, kettle and fan when it was known, and when it was not)
LAYOUTS: dict[str, tuple[Documents, str, str, str]] = {
    "a directory a package": (
        {f"{name}/{part}.json": some for name in ("lamp", "kettle") for part, some in parts(name).items()},
        "lamp/fast.json", "lamp", "lamp",
    ),
    "its deprecations": (
        {f"{name}/{part}.json": some for name in ("lamp", "kettle") for part, some in parts(name).items()},
        "lamp/deprecations.json", "lamp", "lamp",
    ),
    "nested": (
        {f"all/{name}/{part}/it.json": some for name in ("lamp", "kettle") for part, some in parts(name).items()},
        "all/lamp/fast/it.json", "lamp", "lamp",
    ),
    "a directory that bears the name": (
        {f"all/lamp/{'x' if part == 'fast' else 'good'}/{part}.json": some for part, some in parts("lamp").items()}
        | {"all/kettle/catalog.json": whole("kettle")},
        "all/lamp/x/fast.json", "lamp", "lamp",
    ),
    "by kind": (
        {f"{part}/{name}.json": some for name in ("lamp", "kettle") for part, some in parts(name).items()},
        "fast/lamp.json", "lamp", "lamp kettle",
    ),
    "flat": (
        {f"{name}-{part}.json": some for name in ("lamp", "kettle") for part, some in parts(name).items()},
        "lamp-fast.json", "lamp", "lamp kettle",
    ),
    "flat, beside a directory": (
        {f"{part}.json": some for part, some in parts("lamp").items()} | {"kettle/catalog.json": whole("kettle")},
        "fast.json", "lamp", "lamp",
    ),
    "one file a package": (
        {"lamp/catalog.json": whole("lamp"), "kettle/catalog.json": whole("kettle")},
        "lamp/catalog.json", "lamp", "lamp",
    ),
    "one file": ({"catalog.json": [*whole("lamp"), *whole("kettle")]}, "catalog.json", "lamp kettle", "lamp kettle"),
}  # fmt: skip


def written(root: Path, files: Documents) -> Path:
    for path, documents in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"\n".join(map(orjson.dumps, documents)))
    return root


def cut(file: Path) -> None:
    """The last document of the file loses its second half."""
    raw = file.read_bytes()
    begin = raw.rindex(b"\n") + 1 if b"\n" in raw else 0
    file.write_bytes(raw[: (begin + len(raw)) // 2])


def held(catalog: Catalog) -> str:
    for findings in catalog.rejected.values():
        assert any(not finding.warning for finding in findings)
    return " ".join(sorted(catalog.rejected, reverse=True))


def served(catalog: Catalog) -> str:
    """Who may change what is served."""
    return " ".join(sorted((one.name for one in catalog.packages), reverse=True))


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_who_a_broken_file_may_speak_of_is_held_and_nobody_else(
    layout: str, parsed: Parse, tmp_path: Path
) -> None:
    files, broken, known, _ = LAYOUTS[layout]
    root = written(tmp_path, files)
    first = await parsed(root)
    assert served(first) == "lamp kettle"
    original = (root / broken).read_bytes()
    cut(root / broken)
    second = await parsed(root, known=first.index)
    assert (held(second), served(second), second.unreadable) == (known, "", True)
    assert [f.reason for f in second.findings if f.package] == ["HeldBack"] * len(known.split())
    # Good again: what is served is what is remembered, so nothing is parsed anew.
    (root / broken).write_bytes(original)
    third = await parsed(root, known=second.index)
    assert (third.unchanged, served(third), list(third.findings)) == (["kettle", "lamp"], "", [])
    assert third.index == first.index


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in {"one file", "one file a package"}])
async def test_who_was_never_served_is_not_served_by_half(layout: str, parsed: Parse, tmp_path: Path) -> None:
    files, broken, _, unknown = LAYOUTS[layout]
    root = written(tmp_path, files)
    cut(root / broken)
    first = await parsed(root)
    assert held(first) == unknown
    assert served(first) == ("" if "kettle" in unknown else "kettle")


async def test_a_file_of_two_documents_of_which_one_is_cut_holds_who_else_speaks_there(
    parsed: Parse, tmp_path: Path
) -> None:
    root = written(tmp_path, {"lamp/catalog.json": whole("lamp"), "kettle/catalog.json": whole("kettle")})
    cut(root / "lamp/catalog.json")
    first = await parsed(root)
    assert (held(first), served(first)) == ("lamp", "kettle")


@pytest.mark.parametrize(
    "broken",
    [
        'schema: olm.channel\npackage: lamp\nname: "fast\nentries: []\n',
        "schema: olm.deprecations\npackage: lamp\nentries:\n- reference: {schema: olm.bundle\n",
        "schema: olm.deprecations\npackage: lamp\nentries: oops\n",
        "schema: 5\npackage: lamp\n",
        "package: lamp\nentries: []\n",
        "entries: []\n",
        "schema: olm.channel\npackage: [lamp]\n",
        "schema: olm.channel\nname: fast\n",
        "sche",
        "\x00",
        "- a\n",
    ],
)
async def test_however_a_document_is_broken_its_package_is_held(broken: str, parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {"lamp/catalog.json": whole("lamp"), "kettle/catalog.json": whole("kettle")})
    first = await parsed(root)
    (root / "lamp" / "more.yaml").write_text(broken)
    for known in (first.index, b""):
        catalog = await parsed(root, known=known)
        assert (held(catalog), served(catalog)) == ("lamp", "" if known else "kettle")


async def test_a_document_that_names_its_package_holds_that_one_only(parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {f"{name}.json": whole(name) for name in ("lamp", "kettle")})
    (root / "more.yaml").write_text("package: lamp\nentries: []\n")
    catalog = await parsed(root)
    assert (held(catalog), served(catalog)) == ("lamp", "kettle")


async def test_what_cannot_be_opened_holds_who_is_known_to_stand_there(parsed: Parse, tmp_path: Path) -> None:
    files, _, _, _ = LAYOUTS["nested"]
    root = written(tmp_path, files)
    first = await parsed(root)
    shutil.rmtree(root / "all/lamp/fast")
    refusals = [("all/lamp/fast", "directory cannot be read: denied"), ("all/lamp/fast/it.json", "cannot be read")]
    for refused in refusals:
        for known in (first.index, b""):
            catalog = await parsed(root, known=known, refused=(refused,))
            assert (held(catalog), served(catalog)) == ("lamp", "" if known else "kettle")
    shutil.rmtree(root / "all/lamp")
    catalog = await parsed(root, known=first.index, refused=(("all/lamp", "directory cannot be read: denied"),))
    assert (held(catalog), served(catalog)) == ("lamp", "")


async def test_a_file_that_vanished_behind_the_source_holds_its_package(parsed: Parse, tmp_path: Path) -> None:
    files, broken, _, _ = LAYOUTS["a directory a package"]
    root = written(tmp_path, files)
    (root / broken).unlink()
    catalog = await parsed(root, *files)
    assert (held(catalog), served(catalog)) == ("lamp", "kettle")


async def test_an_ignore_file_that_cannot_be_read_holds_everybody(parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {f"{name}/catalog.json": whole(name) for name in ("lamp", "kettle")})
    catalog = await parsed(root, refused=((".indexignore", "cannot be read: permission denied"),))
    assert (held(catalog), served(catalog)) == ("lamp kettle", "")
    (root / ".indexignore").write_text("x" * 2000)
    catalog = await parsed(root)
    assert (held(catalog), served(catalog)) == ("lamp kettle", "")


async def test_a_readme_that_nobody_ignored_holds_nobody(parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {"lamp.json": whole("lamp")})
    (root / "README.md").write_text("How to: 'use it\n")
    catalog = await parsed(root)
    assert (held(catalog), served(catalog), catalog.unreadable) == ("", "lamp", True)


async def test_a_new_package_is_not_served_by_half_beside_a_file_that_is_known(parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {f"{name}.json": whole(name) for name in ("lamp", "kettle")})
    first = await parsed(root)
    written(root, {"fan.json": whole("fan"), "lamp.json": [*whole("lamp"), channel("fan", "fast")]})
    cut(root / "lamp.json")
    catalog = await parsed(root, known=first.index)
    assert (held(catalog), served(catalog), catalog.unchanged) == ("lamp fan", "", ["kettle"])


async def test_a_package_that_is_held_goes_on_from_what_it_becomes(parsed: Parse, tmp_path: Path) -> None:
    """Documents that changed while it was held are read again, with their content, once it is whole."""
    root = written(tmp_path, {"lamp/catalog.json": whole("lamp")})
    first = await parsed(root)
    changed = [*whole("lamp")[:-2], {**bundle("lamp", "1.0.0"), "image": "elsewhere/lamp"}]
    written(root, {"lamp/catalog.json": [*changed, deprecations("lamp")]})
    cut(root / "lamp/catalog.json")
    second = await parsed(root, known=first.index)
    assert held(second) == "lamp"
    written(root, {"lamp/catalog.json": changed})
    third = await parsed(root, known=second.index)
    assert served(third) == "lamp"
    assert {digest for one in third.packages for record in one.records for digest in record.blobs} == set(third.blobs)


async def test_more_warnings_than_are_told_are_no_damage(parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {"lamp/catalog.json": whole("lamp")})
    (root / "lamp" / "x.yaml").write_text("---\nschema: x\na: 1\na: 2\n" * 150)
    catalog = await parsed(root)
    assert (held(catalog), served(catalog), catalog.unreadable) == ("", "lamp", False)


async def test_refused_documents_beyond_those_told_hold_their_packages(parsed: Parse, tmp_path: Path) -> None:
    root = written(tmp_path, {f"{name}/catalog.json": whole(name) for name in ("lamp", "kettle", "fan")})
    (root / "odd.yaml").write_text("---\nschema: 5\npackage: kettle\n" * 150 + "---\nschema: 5\npackage: lamp\n")
    catalog = await parsed(root)
    assert (held(catalog), served(catalog)) == ("lamp kettle", "fan")
