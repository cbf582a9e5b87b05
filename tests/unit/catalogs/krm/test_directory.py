"""A directory of KRM packages: one revision each, called `local`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import Catalog, ParseLimits, Workers, parse
from cacheserver.model import BlobFile, Digest, Kind, RepositoryKey
from cacheserver.sources import DirectorySource, Tree
from tests.support.archive import untar
from tests.support.content import unpacked
from tests.support.krm import kptfile
from tests.unit.catalogs.conftest import Parse

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


def put(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def contents(blob: BlobFile) -> dict[str, bytes]:
    return untar(unpacked(blob))


def files_of(catalog: Catalog, package: str) -> dict[str, bytes]:
    record = next(p for p in catalog.packages if p.name == package).records[0]
    digest = Digest(orjson.loads(record.status)["content"]["digest"])
    return contents(catalog.blobs[digest])


def names(catalog: Catalog) -> list[str]:
    return [package.name for package in catalog.packages]


async def test_each_directory_with_a_kptfile_is_a_package(parsed: Parse, tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "README.md": b"of no package",
            "net/vpc/Kptfile": kptfile("vpc", metadata={"labels": {"chk": "1"}}, info={"description": "A network."}),
            "net/vpc/vpc.yaml": b"kind: VPC\n",
            "app/Kptfile": kptfile("app"),
        },
    )
    catalog = await parsed(root)
    assert names(catalog) == ["app", "net/vpc"]
    assert (catalog.revisions, list(catalog.findings), catalog.unreadable) == (2, [], False)
    revision, package = catalog.packages[1].records
    assert (revision.name, package.name) == ("community.net.vpc.local", "community.net.vpc")
    assert revision.key.kind is Kind.REVISION
    assert revision.labels["chk"] == package.labels["chk"] == "1"
    spec = orjson.loads(revision.spec)
    assert (spec["revision"], spec["version"], spec["lifecycle"]) == ("local", "", "Published")
    assert orjson.loads(revision.status)["revisionNumber"] == -1
    assert orjson.loads(package.status) == {"displayName": "vpc", "summary": "A network.", "revisions": 1}


async def test_the_root_itself_is_called_as_the_repository(parsed: Parse, tmp_path: Path) -> None:
    catalog = await parsed(put(tmp_path, {"Kptfile": kptfile("x"), "sub/Kptfile": kptfile("y")}))
    assert names(catalog) == ["community"]
    assert sorted(files_of(catalog, "community")) == ["Kptfile", "sub/Kptfile"]


async def test_the_content_is_every_file_byte_for_byte(parsed: Parse, tmp_path: Path) -> None:
    files = {
        "Kptfile": kptfile("x"),
        "empty": b"",
        "crlf.txt": b"a\r\nb",
        "binary": bytes(range(256)) * 5,
        "nested/Kptfile": kptfile("nested"),
        "nested/deep/\u00fcml\u00e4ut \u96ea.yaml": b"x: 1\n",
    }
    catalog = await parsed(put(tmp_path, {f"pkg/{path}": raw for path, raw in files.items()}))
    assert names(catalog) == ["pkg"]
    assert files_of(catalog, "pkg") == files


async def test_equal_packages_share_their_content(parsed: Parse, tmp_path: Path) -> None:
    catalog = await parsed(put(tmp_path, {"a/Kptfile": kptfile("x"), "b/Kptfile": kptfile("x")}))
    assert len(catalog.packages) == 2
    assert len(catalog.blobs) == 1


async def test_a_bad_kptfile_rejects_its_package_alone(parsed: Parse, tmp_path: Path) -> None:
    root = put(tmp_path, {"good/Kptfile": kptfile("g"), "bad/Kptfile": b"apiVersion: kpt.dev/v1\nkind: [\n"})
    catalog = await parsed(root)
    assert names(catalog) == ["good"]
    (finding,) = catalog.rejected["bad"]
    assert (finding.reason, finding.path, finding.warning) == ("YAMLSyntax", "bad/Kptfile", False)
    assert finding.line > 1
    assert not catalog.unreadable


async def test_what_is_left_out_is_told_and_what_cannot_be_read_rejects(parsed: Parse, tmp_path: Path) -> None:
    root = put(tmp_path, {f"{name}/Kptfile": kptfile(name) for name in ("linked", "locked")})
    refused = (
        ("linked/out", "link leads out of the source's root"),
        ("locked/secret", "cannot be read: permission denied"),
        ("other", "link leads nowhere"),
    )
    catalog = await parsed(root, refused=refused)
    assert names(catalog) == ["linked"]
    assert [(f.reason, f.path, f.warning) for f in catalog.findings] == [
        ("LeftOut", "linked/out", True),
        ("Unreadable", "locked/secret", False),
        ("Refused", "other", True),
    ]
    assert not catalog.unreadable


async def test_a_directory_that_cannot_be_listed_may_hide_packages(parsed: Parse, tmp_path: Path) -> None:
    root = put(tmp_path, {"a/Kptfile": kptfile("a")})
    catalog = await parsed(root, refused=(("b", "directory cannot be read: permission denied"),))
    assert catalog.unreadable


async def test_only_what_changed_is_parsed(parsed: Parse, tmp_path: Path) -> None:
    root = put(tmp_path, {f"{name}/Kptfile": kptfile(name) for name in "abc"})
    first = await parsed(root)
    again = await parsed(root, known=first.index)
    assert (names(again), list(again.unchanged), again.blobs) == ([], ["a", "b", "c"], {})
    assert (again.revisions, again.index) == (3, first.index)
    put(root, {"b/new.yaml": b"x: 1\n"})
    (root / "c/Kptfile").unlink()
    changed = await parsed(root, known=again.index)
    assert (names(changed), list(changed.unchanged)) == (["b"], ["a"])
    fresh = await parsed(root)
    assert fresh.packages[1] == changed.packages[0]
    assert fresh.index == changed.index


async def test_a_warning_is_told_again_though_its_package_is_unchanged(parsed: Parse, tmp_path: Path) -> None:
    root = put(tmp_path, {"a/Kptfile": kptfile("a"), "b/Kptfile": kptfile("a")})
    refused = (("a/link", "link leads nowhere"),)
    first = await parsed(root, refused=refused)
    again = await parsed(root, refused=refused, known=first.index)
    assert list(again.findings) == list(first.findings) != []
    assert list(again.unchanged) == ["a", "b"]
    without = await parsed(root, known=again.index)
    assert list(without.findings) == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [({"a": b"x" * 30_000, "b": b"x" * 40_000}, "TooLarge"), ({f"f{n}": b"" for n in range(8)}, "TooManyFiles")],
)
async def test_a_package_over_its_limits_is_refused_by_name(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    root = tmp_path / "root"
    put(root / "big", {"Kptfile": kptfile("big"), **files})
    put(root / "small", {"Kptfile": kptfile("small")})
    async with Workers(1, ParseLimits(package_bytes=64 << 10, package_files=8)) as workers:
        tree = await DirectorySource(root).fetch(tmp_path / "scratch", lambda *_: None)
        catalog = await parse(tree, None, RepositoryKey("ns", "r"), workers, scratch=tmp_path / "parsed")
    assert names(catalog) == ["small"]
    assert [finding.reason for finding in catalog.rejected["big"]] == [reason]


async def test_a_file_that_went_since_the_source_looked_rejects_its_package(workers: Workers, tmp_path: Path) -> None:
    put(tmp_path / "root", {"a/Kptfile": kptfile("a"), "b/Kptfile": kptfile("b")})
    tree = Tree(tmp_path / "root", ("a/Kptfile", "a/gone", "b/Kptfile"), "")
    catalog = await parse(tree, None, RepositoryKey("ns", "r"), workers, scratch=tmp_path / "parsed")
    assert names(catalog) == ["b"]
    assert [(f.reason, f.path) for f in catalog.rejected["a"]] == [("Unreadable", "a/gone")]


async def test_the_seed_of_the_conformance_suite_is_served_as_it_expects(parsed: Parse) -> None:
    seed = Path(__file__).parents[5] / "shared" / "conformance" / "seed"
    if not seed.exists():
        pytest.skip("no folder shared next to the repository")
    catalog = await parsed(seed)
    packages: list[Any] = [package.records[-1] for package in catalog.packages]
    assert [record.name for record in packages] == [f"community.{n}" for n in range(6)]
    assert {(record.labels["chk"], record.labels["i"]) for record in packages} == {("1", "0"), ("1", "1")}


async def test_definitions_among_the_files_are_what_a_package_and_its_revisions_provide(
    parsed: Parse, tmp_path: Path
) -> None:
    definition = (
        b"kind: CustomResourceDefinition\nspec:\n  group: example.com\n  names:\n    kind: Lamp\n"
        b"  versions:\n  - name: v1\n"
    )
    put(tmp_path, {"app/Kptfile": kptfile("app"), "app/crds/lamp.yaml": definition})
    [package] = (await parsed(tmp_path)).packages
    for record in package.records:
        provided = orjson.loads(record.status)["providedAPIs"]
        assert provided == [{"group": "example.com", "version": "v1", "kind": "Lamp"}]
