"""What PackageManifests say of packages: as OLM's package-server says it, field by field, whatever a CSV holds."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from cacheserver.catalogs import Catalog, Manifests
from cacheserver.catalogs.documents.document import ShapeError
from cacheserver.catalogs.fbc import csv
from cacheserver.catalogs.fbc.manifest import LABELS_BYTES, MANIFEST_BYTES
from cacheserver.model import blob_references
from tests.support.content import unpacked
from tests.support.fbc import FBCCatalog, bundle
from tests.support.shared import ABSENT, COMMUNITY, GOLDEN
from tests.unit.catalogs.conftest import Parse

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

ANSWERED: Final = GOLDEN / "doors" / "packagemanifests-community-v4.20.json.gz"
WANTED: Final = Manifests("Community Operators", "Example Inc", {"of-source": "community"})


def status_of(catalog: Catalog, package: str = "lamp") -> dict[str, Any] | None:
    """`status.manifest` of the Package."""
    [found] = [parsed for parsed in catalog.packages if parsed.name == package]
    status: dict[str, Any] | None = orjson.loads(found.records[-1].status).get("manifest")
    return status


def manifest_of(catalog: Catalog, package: str = "lamp") -> dict[str, Any]:
    """The inside of the manifest's status."""
    status = status_of(catalog, package)
    assert status is not None
    content = unpacked(catalog.blobs[status["digest"]])
    assert len(content) == status["size"]
    found: dict[str, Any] = orjson.loads(b"{" + content)
    return found


def manifest_object(name: str = "lamp.v1.0.0", **spec: Any) -> dict[str, Any]:
    """A property with a whole CSV."""
    content = {"kind": "ClusterServiceVersion", "metadata": {"name": name}, "spec": spec}
    return {"type": "olm.bundle.object", "value": {"data": base64.b64encode(orjson.dumps(content)).decode()}}


def head(*properties: dict[str, Any], version: str = "1.0.0", **fields: Any) -> dict[str, Any]:
    """A bundle with these properties instead of its CSV's metadata."""
    made = bundle("lamp", version)
    made["properties"] = [made["properties"][0], *properties]
    return made | fields


def metadata(**value: Any) -> dict[str, Any]:
    return {"type": "olm.csv.metadata", "value": value}


async def made(
    parsed: Parse,
    root: Path,
    *bundles: dict[str, Any],
    channels: Mapping[str, Sequence[str]] | None = None,
    default: str = "stable",
    more: Sequence[dict[str, Any]] = (),
    **package: Any,
) -> Catalog:
    """channels: name -> names of bundles, the head last."""
    channels = channels or {"stable": [each["name"] for each in bundles]}
    documents: list[dict[str, Any]] = [
        {"schema": "olm.package", "name": "lamp", "defaultChannel": default, **package},
        *(
            {
                "schema": "olm.channel",
                "package": "lamp",
                "name": name,
                "entries": [
                    {"name": each} | ({"replaces": entries[at - 1]} if at else {}) for at, each in enumerate(entries)
                ],
            }
            for name, entries in channels.items()
        ),
        *bundles,
        *more,
    ]
    FBCCatalog(root).file("lamp/catalog.json", b"\n".join(map(orjson.dumps, documents)))
    return await parsed(root, manifests=WANTED)


@pytest.mark.skipif(not ANSWERED.exists(), reason=ABSENT)
async def test_a_real_catalog_gives_what_package_server_answered(parsed: Parse) -> None:
    catalog = await parsed(COMMUNITY, manifests=WANTED)
    reference = {
        item["metadata"]["name"]: item for item in orjson.loads(gzip.decompress(ANSWERED.read_bytes()))["items"]
    }
    assert {each.name for each in catalog.packages if status_of(catalog, each.name)} == set(reference)
    for name, item in reference.items():
        for channel in item["status"]["channels"]:
            channel["currentCSVDesc"].get("relatedImages", []).sort()
        of_catalog = {field: item["status"].pop(field) for field in list(item["status"]) if field.startswith("catalog")}
        assert manifest_of(catalog, name) == item["status"], name
        status = status_of(catalog, name)
        assert status is not None
        labels = {**status["labels"], "catalog": "community", "catalog-namespace": "olm"}
        assert labels == item["metadata"]["labels"], name
        assert (status["displayName"], status["publisher"]) == (
            of_catalog["catalogSourceDisplayName"],
            of_catalog["catalogSourcePublisher"],
        )


async def test_without_the_word_nothing_is_made(parsed: Parse, tmp_path: Path) -> None:
    with_manifest = await made(parsed, tmp_path, head(metadata(displayName="Lamp")))
    without = await parsed(tmp_path)
    assert status_of(with_manifest) is not None
    assert status_of(without) is None
    assert len(without.blobs) < len(with_manifest.blobs)


async def test_a_csv_is_read_whole_and_shown_as_go_writes_it(parsed: Parse, tmp_path: Path) -> None:
    crd = {"name": "lamps.example.com", "version": "v1", "kind": "Lamp", "specDescriptors": [{"path": "on"}]}
    pod = {"containers": [{"image": "b"}], "initContainers": [{"image": "a"}]}
    install = {"strategy": "deployment", "spec": {"deployments": [{"spec": {"template": {"spec": pod}}}]}}
    whole = manifest_object(
        "other.name",
        displayName="Lamp",
        version="v01.2",
        DESCRIPTION="matched whatever its case",
        provider={"name": "Acme", "unknown": 1},
        keywords=None,
        links=[{"name": "home"}, None],
        installModes=[{"type": "OwnNamespace"}],
        customresourcedefinitions={"owned": [crd]},
        install=install,
        relatedImages=[{"name": "x", "image": "b"}, {"name": "y", "image": "c"}],
        nativeAPIs=[{"kind": "Pod"}],
        icon=[{"base64data": base64.b64encode(b"<svg/>").decode(), "mediatype": "image/svg+xml"}],
    )
    catalog = await made(parsed, tmp_path, head(whole, metadata(displayName="not this")))
    [channel] = manifest_of(catalog)["channels"]
    assert channel["currentCSV"] == "other.name"
    assert channel["currentCSVDesc"] == {
        "displayName": "Lamp",
        "version": "1.2.0",
        "provider": {"name": "Acme"},
        "links": [{"name": "home"}, {}],
        "description": "matched whatever its case",
        "installModes": [{"type": "OwnNamespace", "supported": False}],
        "customresourcedefinitions": {"owned": [{"name": "lamps.example.com", "version": "v1", "kind": "Lamp"}]},
        "apiservicedefinitions": {},
        "nativeApis": [{"group": "", "version": "", "kind": "Pod"}],
        "relatedImages": ["a", "b", "c"],
    }
    status = status_of(catalog)
    assert status is not None
    assert status["icon"]["mediaType"] == "image/svg+xml"
    assert catalog.blobs[status["icon"]["digest"]].head.size == len(b"<svg/>")
    [lamp] = catalog.packages
    assert set(lamp.records[-1].blobs) == blob_references(lamp.records[-1].status) | set(lamp.records[-1].blobs)
    assert {status["digest"], status["icon"]["digest"]} <= set(lamp.records[-1].blobs)


async def test_metadata_is_filled_from_bundle_and_package(parsed: Parse, tmp_path: Path) -> None:
    icon = {"base64data": base64.b64encode(b"png").decode(), "mediatype": "image/png"}
    images = [{"name": "", "image": "registry.example.com/b"}, {"name": "a", "image": "registry.example.com/a"}]
    catalog = await made(
        parsed,
        tmp_path,
        head(metadata(provider={"url": "https://example.com"}), relatedImages=images),
        description="of the package",
        icon=icon,
    )
    found = manifest_of(catalog)
    [channel] = found["channels"]
    assert channel["currentCSV"] == "lamp.v1.0.0"
    assert channel["currentCSVDesc"]["description"] == "of the package"
    assert channel["currentCSVDesc"]["version"] == "1.0.0"
    assert channel["currentCSVDesc"]["relatedImages"] == ["registry.example.com/a", "registry.example.com/b"]
    assert found["provider"] == {"url": "https://example.com"}
    status = status_of(catalog)
    assert status is not None
    assert status["labels"] == {
        "of-source": "community",
        "operatorframework.io/arch.amd64": "supported",
        "operatorframework.io/os.linux": "supported",
        "provider": "",
        "provider-url": "https://example.com",
    }


async def test_labels_come_from_the_default_channel_and_win(parsed: Parse, tmp_path: Path) -> None:
    labels = {
        "provider": "mine",
        "catalog": "trusted",
        "digest": "sha256:" + "0" * 64,
        "operatorframework.io/arch.s390x": "x",
    }
    catalog = await made(
        parsed,
        tmp_path,
        head(metadata(labels={"of": "alpha"}, provider={"name": "First"})),
        head(metadata(labels=labels, provider={"name": "Acme"}), version="2.0.0", name="lamp.v2.0.0"),
        channels={"alpha": ["lamp.v1.0.0"], "stable": ["lamp.v2.0.0"]},
    )
    status = status_of(catalog)
    assert status is not None
    assert status["labels"] == {
        "of-source": "community",
        "operatorframework.io/arch.s390x": "x",
        "operatorframework.io/os.linux": "supported",
        "provider": "mine",
        "provider-url": "",
    }
    assert manifest_of(catalog)["provider"] == {"name": "Acme"}


async def test_channels_are_sorted_and_entries_go_down_from_the_highest_version(parsed: Parse, tmp_path: Path) -> None:
    old = head({"type": "olm.deprecated", "value": {}}, version="0.9.0", name="lamp.v0.9.0")
    bundles = [old, head(metadata()), head(metadata(), version="1.10.0", name="lamp.v1.10.0")]
    said = {
        "schema": "olm.deprecations",
        "package": "lamp",
        "entries": [
            {"reference": {"schema": "olm.package"}, "message": "no more lamps"},
            {"reference": {"schema": "olm.channel", "name": "alpha"}, "message": "use stable"},
            {"reference": {"schema": "olm.bundle", "name": "lamp.v1.0.0"}, "message": "it flickers"},
        ],
    }
    catalog = await made(
        parsed,
        tmp_path,
        *bundles,
        channels={"stable": ["lamp.v0.9.0", "lamp.v1.0.0", "lamp.v1.10.0"], "alpha": ["lamp.v1.0.0"]},
        more=[said],
    )
    found = manifest_of(catalog)
    assert [channel["name"] for channel in found["channels"]] == ["alpha", "stable"]
    alpha, stable = found["channels"]
    flickers = {"name": "lamp.v1.0.0", "version": "1.0.0", "deprecation": {"message": "it flickers"}}
    assert stable["entries"] == [{"name": "lamp.v1.10.0", "version": "1.10.0"}, flickers]
    assert alpha["entries"] == [flickers]
    assert (alpha["deprecation"], found["deprecation"]) == ({"message": "use stable"}, {"message": "no more lamps"})
    assert "deprecation" not in stable


async def test_a_channel_without_a_csv_is_dropped_and_the_default_follows(parsed: Parse, tmp_path: Path) -> None:
    bundles = [head(metadata(displayName="One")), head(version="2.0.0", name="lamp.v2.0.0")]
    channels = {"alpha": ["lamp.v1.0.0"], "beta": ["lamp.v1.0.0"], "stable": ["lamp.v2.0.0"]}
    catalog = await made(parsed, tmp_path, *bundles, channels=channels)
    found = manifest_of(catalog)
    assert ([channel["name"] for channel in found["channels"]], found["defaultChannel"]) == (["alpha", "beta"], "alpha")


async def test_a_package_of_plain_bundles_alone_is_not_listed(parsed: Parse, tmp_path: Path) -> None:
    helm = {"type": "olm.bundle.mediatype", "value": "helm+v3"}
    catalog = await made(parsed, tmp_path, head(helm))
    assert status_of(catalog) is None
    assert [parsed.name for parsed in catalog.packages] == ["lamp"]


_WRONG: Final[Sequence[tuple[str, Any]]] = [
    ("displayName", 1),
    ("version", 1.5),
    ("version", "one"),
    ("version", "1.0-rc"),
    ("provider", []),
    ("provider", {"name": {}}),
    ("keywords", "words"),
    ("keywords", [1]),
    ("links", {}),
    ("links", ["x"]),
    ("maintainers", [[]]),
    ("maturity", []),
    ("description", {}),
    ("installModes", [{"type": "OwnNamespace", "supported": "yes"}]),
    ("customresourcedefinitions", []),
    ("customresourcedefinitions", {"owned": {}}),
    ("customresourcedefinitions", {"owned": [{"specDescriptors": [{"x-descriptors": [1]}]}]}),
    ("apiservicedefinitions", {"owned": [{"containerPort": "80"}]}),
    ("apiservicedefinitions", {"owned": [{"containerPort": 1 << 40}]}),
    ("nativeAPIs", [1]),
    ("minKubeVersion", True),
    ("icon", "data"),
    ("icon", [{"base64data": 1}]),
    ("install", []),
    ("install", {"strategy": "deployment", "spec": {"deployments": [{"spec": {"template": []}}]}}),
    ("relatedImages", [{"image": 1}]),
]


@pytest.mark.parametrize(("field", "value"), _WRONG)
async def test_one_field_of_another_type_makes_the_csv_unreadable(field: str, value: Any) -> None:
    with pytest.raises(ShapeError):
        csv.of_manifest({"metadata": {"name": "x"}, "spec": {field: value}})


async def test_of_two_csvs_the_first_counts(parsed: Parse, tmp_path: Path) -> None:
    catalog = await made(parsed, tmp_path, head(manifest_object(displayName="One"), manifest_object(displayName=2)))
    [channel] = manifest_of(catalog)["channels"]
    assert channel["currentCSVDesc"]["displayName"] == "One"


async def test_csvs_that_cannot_be_read_reject_no_package(parsed: Parse, tmp_path: Path) -> None:
    heads = [
        head(manifest_object(**{field: value}), version=f"1.{at}.0", name=f"lamp.v1.{at}.0")
        for at, (field, value) in enumerate(_WRONG)
    ]
    channels = {f"c{at:02}": [each["name"]] for at, each in enumerate(heads)}
    catalog = await made(parsed, tmp_path, *heads, channels=channels, default="c00")
    assert catalog.rejected == {}
    assert status_of(catalog) is None


async def test_a_description_of_megabytes_is_one_package_less_and_said(parsed: Parse, tmp_path: Path) -> None:
    large = metadata(description="x" * (MANIFEST_BYTES // 2))
    heads = [head(large, version=f"1.{at}.0", name=f"lamp.v1.{at}.0") for at in range(3)]
    channels = {f"c{at}": [each["name"]] for at, each in enumerate(heads)}
    catalog = await made(parsed, tmp_path, *heads, channels=channels, default="c0")
    assert status_of(catalog) is None
    assert [(found.reason, found.warning) for found in catalog.findings] == [("ManifestTooLarge", True)]
    one = await made(parsed, tmp_path, heads[0], channels={"stable": ["lamp.v1.0.0"]})
    assert len(manifest_of(one)["channels"][0]["currentCSVDesc"]["description"]) == MANIFEST_BYTES // 2


async def test_thousands_of_labels_are_taken_up_to_a_bound_and_said(parsed: Parse, tmp_path: Path) -> None:
    labels = {f"no label {at}\n": "\x00" * 9 for at in range(10_000)} | {"long": "x" * 5000}
    catalog = await made(parsed, tmp_path, head(metadata(labels=labels, annotations=labels)))
    status = status_of(catalog)
    assert status is not None
    assert sum(len(name) + len(value) for name, value in status["labels"].items()) <= LABELS_BYTES
    assert [(found.reason, found.warning) for found in catalog.findings] == [("ManifestLabels", True)]
    assert len(manifest_of(catalog)["channels"][0]["currentCSVDesc"]["annotations"]) == 10_001
    assert catalog.rejected == {}


async def test_what_is_known_is_not_made_again_and_what_changed_is(parsed: Parse, tmp_path: Path) -> None:
    first = await made(parsed, tmp_path, head(metadata(displayName="Lamp")))
    again = await parsed(tmp_path, known=first.index, manifests=WANTED)
    assert (again.packages, again.unchanged) == ([], ["lamp"])
    changed = await made(parsed, tmp_path, head(metadata(displayName="Lantern")))
    third = await parsed(tmp_path, known=first.index, manifests=WANTED)
    assert manifest_of(third) == manifest_of(changed)
    assert status_of(third) != status_of(first)


@pytest.mark.parametrize(
    ("written", "found"),
    [("1.2.3", "1.2.3"), ("v1", "1.0.0"), (" 1.2 ", "1.2.0"), ("01.002.3-rc.1+b", "1.2.3-rc.1+b"), ("1.0.00", "1.0.0")],
)
async def test_versions_are_read_as_blang_reads_them(written: str, found: str) -> None:
    assert csv.tolerant_version(written) == found
