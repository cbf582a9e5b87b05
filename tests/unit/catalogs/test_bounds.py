"""What is served is whole; what is too large for one object is cut by name, or refused by name, and its neighbours are
served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import Catalog, ParseLimits, Workers, parse
from cacheserver.catalogs.bounds import BoundError, Cutter, check_files, checked_apis, fitted
from cacheserver.catalogs.provides import unpack
from cacheserver.model import Digest, Format, Kind, Record
from cacheserver.sources import Tree
from tests.support.fbc import bundle
from tests.support.krm import kptfile
from tests.unit.catalogs.conftest import KEY, Parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = ParseLimits()


def package(name: str = "lamp") -> dict[str, Any]:
    return {"schema": "olm.package", "name": name, "defaultChannel": "stable"}


def channel(name: str = "stable", owner: str = "lamp", **edges: Any) -> dict[str, Any]:
    return {
        "schema": "olm.channel",
        "package": owner,
        "name": name,
        "entries": [{"name": f"{owner}.v1.0.0", **edges}],
    }


def property_(kind: str, /, **value: Any) -> dict[str, Any]:
    return {"type": kind, "value": value}


def with_properties(*properties: dict[str, Any], **csv: Any) -> dict[str, Any]:
    found = bundle("lamp", "1.0.0")
    found["properties"][1]["value"].update(csv)
    found["properties"] += properties
    return found


def written(root: Path, *documents: dict[str, Any]) -> Path:
    kettle = [package("kettle"), channel(owner="kettle"), bundle("kettle", "1.0.0")]
    (root / "lamp.json").write_bytes(b"\n".join(map(orjson.dumps, documents)))
    (root / "kettle.json").write_bytes(b"\n".join(map(orjson.dumps, kettle)))
    return root


def records(catalog: Catalog, name: str = "lamp") -> tuple[Record, Record]:
    """The revision and the package."""
    [(revision, itself)] = [one.records for one in catalog.packages if one.name == name]
    assert revision.key.kind is Kind.REVISION
    return revision, itself


def status(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(record.status)
    return found


async def test_more_than_any_real_catalog_has_is_served_whole(parsed: Parse, tmp_path: Path) -> None:
    """265 skips (kubernetes-nmstate), 30 APIs, and twice to ten times as much of everything."""
    apis = [{"group": "example.com", "version": "v1", "kind": f"Kind{at}"} for at in range(300)]
    wanted = [{"packageName": f"socket-{at}", "versionRange": ">=1.0.0 " * 40} for at in range(100)]
    skips = [f"lamp.v0.{at}.0" for at in range(600)]
    words = [f"word-{at}-{'x' * 80}" for at in range(100)]
    document = with_properties(
        *(property_("olm.gvk", **api) for api in apis),
        *(property_("olm.gvk.required", **api) for api in apis),
        *(property_("olm.package.required", **one) for one in wanted),
        keywords=words,
        displayName="n" * 300,
        annotations={"categories": ",".join(words)},
    )
    channels = [channel("stable", skips=skips), *(channel(f"c{at:02}") for at in range(60))]
    deprecated = {"reference": {"schema": "olm.bundle", "name": "lamp.v1.0.0"}, "message": "m" * 5000}
    deprecations = {"schema": "olm.deprecations", "package": "lamp", "entries": [deprecated]}
    catalog = await parsed(written(tmp_path, package(), *channels, document, deprecations))
    revision, itself = map(status, records(catalog))
    assert (revision["providedAPIs"], revision["requiredAPIs"]) == (apis, apis)
    assert [one["versionRange"] for one in revision["dependencies"]] == [one["versionRange"] for one in wanted]
    by_name = {one["name"]: one for one in revision["channels"]}
    assert (len(by_name), by_name["stable"]["skips"]) == (61, skips)
    assert revision["deprecation"]["message"] == "m" * 5000
    assert (itself["keywords"], itself["categories"], itself["displayName"]) == (words, words, "n" * 300)
    assert "truncated" not in revision | itself
    assert list(catalog.findings) == []


async def test_what_is_too_long_for_an_object_is_cut_there_named_and_whole_in_the_content(
    parsed: Parse, tmp_path: Path
) -> None:
    apis = [{"group": "example.com", "version": "v1", "kind": f"Kind{at}"} for at in range(10_000)]
    required = [{"group": "other.com", "version": "v1", "kind": "One"}]
    words = [f"word-{at}-{'x' * 80}" for at in range(5000)]
    document = with_properties(
        *(property_("olm.gvk", **api) for api in apis),
        *(property_("olm.gvk.required", **api) for api in required),
        keywords=words,
        displayName="n" * 9000,
    )
    catalog = await parsed(written(tmp_path, package(), channel(), document))
    revision, itself = records(catalog)
    found = status(revision)
    assert (found["truncated"], found["requiredAPIs"]) == (["providedAPIs"], required)
    assert 1000 < len(found["providedAPIs"]) < 10_000
    for one in (found, status(itself)):
        assert unpack(one["allProvidedAPIs"]).count("\n") + 1 == 20_000, "all that it is found by"
    assert found["providedAPIs"] == apis[: len(found["providedAPIs"])]
    assert len(revision.status) < LIMITS.record_bytes
    assert status(itself)["truncated"] == ["displayName", "keywords", "providedAPIs"]
    assert len(itself.status) < LIMITS.record_bytes
    assert catalog.blobs[Digest(found["content"]["digest"])].head.size > 300_000
    warnings = [(finding.reason, finding.package, finding.document) for finding in catalog.findings if finding.warning]
    assert warnings == [("Truncated", "lamp", 3), ("Truncated", "lamp", 1)] or len(warnings) == 2
    assert (catalog.rejected, catalog.unreadable) == ({}, False)


async def test_what_provides_more_than_can_be_found_is_refused_and_says_so(parsed: Parse, tmp_path: Path) -> None:
    apis = [property_("olm.gvk", group="example.com", version="v1", kind=f"Kind{at}") for at in range(10_001)]
    catalog = await parsed(written(tmp_path, package(), channel(), with_properties(*apis)))
    ((found,),) = catalog.rejected.values()
    assert (found.reason, "10001 APIs" in found.message) == ("TooManyAPIs", True)
    names = [("g" * 253, "v1", f"Kind{at}") for at in range(1_100)]
    with pytest.raises(BoundError, match="524288 bytes"):
        checked_apis(names)
    assert len(checked_apis([*names[:900], *names[:900]])) == 900


def too_many_channels() -> list[dict[str, Any]]:
    return [package(), channel(), *(channel(f"c{at}") for at in range(10_000)), bundle("lamp", "1.0.0")]


def too_many_skips() -> list[dict[str, Any]]:
    return [package(), channel(skips=[f"lamp.v0.{at}.0" for at in range(30_000)]), bundle("lamp", "1.0.0")]


def too_long_a_deprecation() -> list[dict[str, Any]]:
    deprecated = {"reference": {"schema": "olm.package"}, "message": "m" * 400_000}
    return [
        package(), channel(), bundle("lamp", "1.0.0"),
        {"schema": "olm.deprecations", "package": "lamp", "entries": [deprecated]},
    ]  # fmt: skip


def too_many_manifests() -> list[dict[str, Any]]:
    data = {"data": "eyJraW5kIjoiQSJ9"}
    return [package(), channel(), with_properties(*[property_("olm.bundle.object", **data)] * 10_001)]


def too_long_a_channel() -> list[dict[str, Any]]:
    return [package(), channel(), channel("x" * 1_000_000), channel("x" * 1_000_000), bundle("lamp", "1.0.0")]


def too_long_a_version() -> list[dict[str, Any]]:
    return [package(), channel(), {**bundle("lamp", "1.0." + "1" * 10_000), "image": "x"}]


TOO_LARGE = {
    too_many_channels: ("RecordTooLarge", "channels; the limit for one object is 262144"),
    too_many_skips: ("RecordTooLarge", "'1.0.0' would have"),
    too_long_a_deprecation: ("RecordTooLarge", "deprecation; the limit for one object is 262144"),
    too_many_manifests: ("TooManyFiles", "the limit for one revision is 10000"),
    too_long_a_channel: ("NameTooLong", "longer than 253 characters"),
    too_long_a_version: ("InvalidBundleName", "1 to 253 characters"),
}


@pytest.mark.parametrize("make", TOO_LARGE, ids=lambda make: make.__name__)
async def test_a_package_too_large_is_refused_by_name_and_its_neighbour_served(
    make: Any, parsed: Parse, tmp_path: Path
) -> None:
    reason, words = TOO_LARGE[make]
    catalog = await parsed(written(tmp_path, *make()))
    assert [one.name for one in catalog.packages] == ["kettle"]
    assert list(catalog.rejected) == ["lamp"]
    findings = catalog.rejected["lamp"]
    assert reason in {finding.reason for finding in findings}
    assert any(words in finding.message for finding in findings)
    assert all(len(finding.message) <= 1024 for finding in findings)


async def test_a_package_whose_name_is_as_long_as_a_document_is_told_in_a_line(parsed: Parse, tmp_path: Path) -> None:
    name = "lamp" * 100_000
    catalog = await parsed(written(tmp_path, package(name), channel(owner=name), bundle(name, "1.0.0")))
    assert [one.name for one in catalog.packages] == ["kettle"]
    assert all(len(rejected) <= 253 for rejected in catalog.rejected)
    assert {finding.reason for finding in catalog.findings} == {"NameTooLong", "HeldBack"}
    assert sum(len(finding.message) + len(finding.package) for finding in catalog.findings) < 8192


async def test_small_lists_stay_whole_and_large_ones_share_what_is_left() -> None:
    limits = ParseLimits(record_bytes=4000)
    said = {"a": list(range(5)), "b": list(range(10_000)), "c": list(range(5000)), "kept": "x" * 100}
    found = fitted(said, ("a", "b", "c", "absent"), ["d"], limits)
    assert (found["a"], found["kept"], found["truncated"]) == (said["a"], said["kept"], ["b", "c", "d"])
    assert abs(len(orjson.dumps(found["b"])) - len(orjson.dumps(found["c"]))) < 20
    assert 2500 < len(orjson.dumps(found)) < 3000


async def test_what_fits_is_not_touched() -> None:
    assert fitted({"a": [1]}, ("a",), (), LIMITS) == {"a": [1]}
    assert Cutter().items("a", ["x", "y", "x"]) == ("x", "y")
    assert Cutter().cut == ()


async def test_the_list_of_a_revisions_files_fits_into_one_record() -> None:
    check_files([("p" * 60, 1)] * 10_000, LIMITS)
    with pytest.raises(BoundError, match="the limit for one revision is 786432"):
        check_files([("p" * 4000, 1)] * 300, LIMITS)


async def krm(root: Path, workers: Workers, scratch: Path) -> Catalog:
    files = tuple(sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()))
    return await parse(Tree(root, files, ""), Format.KRM, KEY, workers, scratch=scratch)


async def test_a_kptfile_says_as_much_as_it_wants_until_an_object_is_full(workers: Workers, tmp_path: Path) -> None:
    def said(count: int) -> bytes:
        return kptfile(
            metadata={"labels": {f"label-{at}": "x" for at in range(count)}},
            info={
                "keywords": [f"word-{at}-{'x' * 50}" for at in range(count)],
                "readinessGates": [{"conditionType": f"gate-{at}"} for at in range(count)],
            },
            status={"conditions": [{"type": f"c-{at}", "status": "True", "message": "m" * 90} for at in range(count)]},
        )

    for name, count in (("small", 100), ("large", 5000)):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "Kptfile").write_bytes(said(count))
    catalog = await krm(tmp_path / "tree", workers, tmp_path / "scratch")
    revision, itself = records(catalog, "small")
    assert len(revision.labels) == 104
    assert [len(status(revision)[name]) for name in ("conditions", "readinessGates")] == [100, 100]
    assert len(status(itself)["keywords"]) == 100
    assert "truncated" not in status(revision) | status(itself)
    revision, itself = records(catalog, "large")
    assert status(revision)["truncated"] == ["conditions", "labels", "readinessGates"]
    assert status(itself)["truncated"] == ["keywords", "labels"]
    for record in (revision, itself):
        assert len(record.status) + len(orjson.dumps(dict(record.labels))) < LIMITS.record_bytes
    assert {(finding.reason, finding.package, finding.warning) for finding in catalog.findings} == {
        ("Truncated", "large", True)
    }


async def test_a_krm_package_whose_path_or_files_make_too_long_a_record_is_refused_alone(
    workers: Workers, tmp_path: Path
) -> None:
    root = tmp_path / "t"
    deep = "/".join(["é" * 120] * 6)
    for name in ("good", deep):
        (root / name).mkdir(parents=True)
        (root / name / "Kptfile").write_bytes(kptfile())
    catalog = await krm(root, workers, tmp_path / "scratch")
    assert [one.name for one in catalog.packages] == ["good"]
    [[finding]] = catalog.rejected.values()
    assert (finding.reason, finding.package) == ("NameTooLong", deep)
    assert "the limit is 4096" in finding.message
