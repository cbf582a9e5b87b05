"""Documents kept as they are: byte for byte what operator-registry writes, in the order in which it reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import Catalog, ParseLimits, Workers, parse
from cacheserver.model import Format, Kind
from cacheserver.sources import Tree
from tests.support.content import unpacked
from tests.support.fbc import FBCCatalog, bundle
from tests.unit.catalogs.conftest import KEY, Parse

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

NOTE = {"schema": "example.note", "package": "lamp", "text": "of a schema that nobody knows"}
LOOSE = {"schema": "example.note", "text": "of no package"}


def line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS) + b"\n"


def digest_of(catalog: Catalog, package: str) -> str:
    [record] = [r for p in catalog.packages for r in p.records if r.key == replace(r.key, package=package)][-1:]
    assert record.key.kind is Kind.PACKAGE
    digest: str = orjson.loads(record.status)["documents"]["digest"]
    return digest


def kept(catalog: Catalog, package: str = "lamp") -> bytes:
    digest = digest_of(catalog, package)
    [blob] = [blob for blob in catalog.blobs.values() if blob.head.digest == digest]
    assert blob.head.media_type == "application/jsonl"
    return unpacked(blob)


def loose(catalog: Catalog) -> bytes:
    assert catalog.documents is not None
    return unpacked(catalog.blobs[catalog.documents])


def lamp(root: Path, *more: dict[str, Any], image: str = "registry.example.com/lamp:v1") -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = [
        {"schema": "olm.package", "name": "lamp", "defaultChannel": "stable", "unknown": {"b": 1, "a": "\u2028<&>"}},
        {"schema": "olm.channel", "package": "lamp", "name": "stable", "entries": [{"name": "lamp.v1.0.0"}]},
        bundle("lamp", "1.0.0") | {"image": image},
        *more,
    ]
    FBCCatalog(root).file("lamp/catalog.json", b"\n".join(map(orjson.dumps, documents)))
    return documents


async def test_a_package_keeps_its_documents_whole_and_those_of_other_schemas(parsed: Parse, tmp_path: Path) -> None:
    documents = lamp(tmp_path, NOTE)
    written = b"".join(map(line, documents)).replace("\u2028".encode(), b"\\u2028")
    assert kept(await parsed(tmp_path)) == written


async def test_documents_stand_in_the_order_of_a_walk_and_not_of_whole_paths(parsed: Parse, tmp_path: Path) -> None:
    lamp(tmp_path)
    files = FBCCatalog(tmp_path)
    for path in ("a/x.json", "a-b/x.json", "a.json"):
        files.file(path, orjson.dumps(NOTE | {"text": path}) * 2)
    found = [orjson.loads(each).get("text") for each in kept(await parsed(tmp_path)).splitlines()]
    assert found[:6] == ["a/x.json", "a/x.json", "a-b/x.json", "a-b/x.json", "a.json", "a.json"]


async def test_after_one_document_changed_the_blob_is_that_of_a_first_parse(parsed: Parse, tmp_path: Path) -> None:
    """The others were known: what is not read for its facts is read for its line."""
    lamp(tmp_path, NOTE)
    FBCCatalog(tmp_path).package("kettle", "1.0.0", "1.1.0").package("torch", "1.0.0")
    first = await parsed(tmp_path)
    FBCCatalog(tmp_path).package("kettle", "1.0.0", "1.1.0", descriptions={"1.1.0": "other words"})
    changed = await parsed(tmp_path, known=first.index)
    assert [package.name for package in changed.packages] == ["kettle"]
    assert sorted(changed.unchanged) == ["lamp", "torch"]
    assert kept(changed, "kettle") == kept(await parsed(tmp_path), "kettle")
    assert digest_of(changed, "kettle") != digest_of(first, "kettle")


async def test_a_document_of_another_schema_changes_its_package_and_no_other(parsed: Parse, tmp_path: Path) -> None:
    lamp(tmp_path, NOTE)
    FBCCatalog(tmp_path).package("kettle", "1.0.0")
    first = await parsed(tmp_path)
    lamp(tmp_path, NOTE | {"text": "new"})
    changed = await parsed(tmp_path, known=first.index)
    assert ([package.name for package in changed.packages], list(changed.unchanged)) == (["lamp"], ["kettle"])
    assert kept(changed).endswith(line(NOTE | {"text": "new"}))


async def test_documents_of_no_package_have_a_blob_of_the_repository(parsed: Parse, tmp_path: Path) -> None:
    stranger = NOTE | {"package": "not-here"}
    lamp(tmp_path)
    FBCCatalog(tmp_path).file("loose.json", orjson.dumps(LOOSE) + b"\n" + orjson.dumps(stranger))
    first = await parsed(tmp_path)
    assert loose(first) == line(LOOSE) + line(stranger)
    again = await parsed(tmp_path, known=first.index)
    assert (again.documents, dict(again.blobs), again.index) == (first.documents, {}, first.index)
    FBCCatalog(tmp_path).file("loose.json", orjson.dumps(LOOSE))
    less = await parsed(tmp_path, known=again.index)
    assert (loose(less), list(less.packages)) == (line(LOOSE), [])
    (tmp_path / "loose.json").unlink()
    assert (await parsed(tmp_path, known=less.index)).documents is None


async def test_while_a_file_cannot_be_read_nobody_knows_what_belongs_to_no_package(
    parsed: Parse, tmp_path: Path
) -> None:
    lamp(tmp_path)
    FBCCatalog(tmp_path).file("loose.json", orjson.dumps(LOOSE))
    first = await parsed(tmp_path)
    FBCCatalog(tmp_path).file("loose.json", b"{")
    assert (await parsed(tmp_path, known=first.index)).documents == first.documents


async def test_a_package_with_more_documents_than_are_kept_is_rejected_by_name(tmp_path: Path) -> None:
    FBCCatalog(tmp_path / "tree").package("kettle", "1.0.0")
    lamp(tmp_path / "tree", NOTE | {"text": "x" * 5000})
    tree = Tree(tmp_path / "tree", ("kettle/catalog.yaml", "lamp/catalog.json"), "", ())
    async with Workers(1, limits=ParseLimits(package_bytes=4000)) as few:
        catalog = await parse(tree, Format.FBC, KEY, few, scratch=tmp_path / "scratch")
    assert [package.name for package in catalog.packages] == ["kettle"]
    [finding] = catalog.rejected["lamp"]
    assert finding.reason == "DocumentsNotKept"
    assert "come to" in finding.message
    assert "the limit is 4000" in finding.message
