"""parse(): what is served of a catalog, what is told of it, and what a second parse is spared."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from cacheserver.catalogs import Catalog, ParseLimits, Workers, parse
from cacheserver.catalogs.fbc.scan import scan
from cacheserver.catalogs.fbc.wire import Part
from cacheserver.errors import CatalogError
from cacheserver.model import Digest, Format, Kind, Record
from cacheserver.sources import Tree
from tests.support.archive import untar
from tests.support.content import unpacked
from tests.support.fbc import bundle
from tests.unit.catalogs.conftest import KEY, Parse

FIXTURES = Path(__file__).parents[3] / "fixtures" / "fbc"

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


def the(catalog: Catalog, kind: Kind, revision: str = "") -> Record:
    """The one record of that kind (and revision) in the one package."""
    [package] = catalog.packages
    [record] = [
        r for r in package.records if r.key.kind is kind and revision in ("", orjson.loads(r.spec).get("revision"))
    ]
    return record


def status(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(record.status)
    return found


def content(catalog: Catalog, digest: str) -> bytes:
    blob = catalog.blobs[Digest(digest)]
    raw = unpacked(blob)
    assert blob.head.size == len(raw)
    assert digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return raw


def but_for_documents(catalog: Catalog) -> list[tuple[Record, dict[str, Any]]]:
    """The records of the one package without the blob that holds its documents, whose order is that of the files."""
    found = []
    for record in catalog.packages[0].records:
        said = status(record)
        documents = said.pop("documents", {}).get("digest")
        blobs = tuple(digest for digest in record.blobs if digest != documents)
        found.append((replace(record, status=b"", blobs=blobs), said))
    return found


def copied(case: str, root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(FIXTURES / case, root)
    return root


async def test_images_that_a_bundle_may_run_are_served_once_each(parsed: Parse, tmp_path: Path) -> None:
    document = bundle("app", "1.0.0") | {
        "relatedImages": [
            {"name": "", "image": "registry.example.com/app:v1.0.0"},
            {"name": "proxy", "image": "registry.example.com/proxy:v2"},
            {"name": "proxy", "image": "registry.example.com/proxy:v2"},
            {"name": "nothing", "image": ""},
        ]
    }
    said = [{"schema": "olm.package", "name": "app", "defaultChannel": "stable"}, document]
    said.append({"schema": "olm.channel", "package": "app", "name": "stable", "entries": [{"name": "app.v1.0.0"}]})
    (tmp_path / "catalog.json").write_bytes(b"".join(map(orjson.dumps, said)))
    images = status(the(await parsed(tmp_path), Kind.REVISION))["relatedImages"]
    assert images == [
        {"image": "registry.example.com/app:v1.0.0"},
        {"name": "proxy", "image": "registry.example.com/proxy:v2"},
    ]


async def test_a_package_is_served_with_every_field(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "good/everything.yaml")
    package = the(catalog, Kind.PACKAGE)
    assert package is catalog.packages[0].records[-1]
    assert package.name == "community.lamp"
    assert package.labels == {
        "cacheserver.dev/repository": "community",
        "cacheserver.dev/package": "lamp",
        "cacheserver.dev/format": "FBC",
    }
    assert orjson.loads(package.spec) == {"repository": "community", "packageName": "lamp", "format": "FBC"}
    icon, documents = status(package)["icon"], status(package)["documents"]
    assert status(package) == {
        "displayName": "Lamp",
        "summary": "A lamp for your cluster.",
        "provider": {"name": "Example, Inc", "url": "https://example.com"},
        "keywords": ["light", "bulb"],
        "categories": ["Lighting"],
        "defaultChannel": "stable",
        "channels": [
            {"name": "stable", "head": "lamp.v1.1.0", "headVersion": "1.1.0", "revisions": 2, "deprecated": True}
        ],
        "latest": {"revision": "lamp.v1.1.0", "version": "1.1.0"},
        "revisions": 2,
        "icon": icon,
        "providedAPIs": [{"group": "example.com", "version": "v1", "kind": "Lamp"}],
        "deprecation": {"message": "use torch"},
        "documents": documents,
    }
    assert icon["mediaType"] == "image/svg+xml"
    assert package.blobs == (icon["digest"], documents["digest"])
    assert content(catalog, icon["digest"]).startswith(b"<svg")


async def test_a_revision_is_served_with_every_field(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "good/everything.yaml")
    revision = the(catalog, Kind.REVISION, "lamp.v1.1.0")
    assert revision.name == "community.lamp.1.1.0"
    assert revision.labels["cacheserver.dev/latest"] == "true"
    assert revision.labels["cacheserver.dev/lifecycle"] == "Published"
    assert orjson.loads(revision.spec) == {
        "repository": "community",
        "packageName": "lamp",
        "revision": "lamp.v1.1.0",
        "version": "1.1.0",
        "lifecycle": "Published",
        "format": "FBC",
    }
    digest = status(revision)["content"]["digest"]
    assert status(revision) == {
        "channels": [{"name": "stable", "head": True, "replaces": "lamp.v1.0.0"}],
        "image": "registry.example.com/lamp/bundle:v1.1.0",
        "providedAPIs": [{"group": "example.com", "version": "v1", "kind": "Lamp"}],
        "requiredAPIs": [{"group": "power.example.com", "version": "v1", "kind": "Socket"}],
        "dependencies": [{"package": "socket", "versionRange": ">=1.0.0"}],
        "minKubeVersion": "1.26.0",
        "content": {"digest": digest, "size": catalog.blobs[digest].head.size, "files": 1},
    }
    assert revision.blobs == (digest,)
    older = the(catalog, Kind.REVISION, "lamp.v1.0.0")
    assert "cacheserver.dev/latest" not in older.labels
    assert status(older)["deprecation"] == {"message": "flickers"}
    assert catalog.revisions == 2


async def test_the_content_is_the_document_and_its_manifests(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "good/manifests-inside.yaml")
    digest = status(the(catalog, Kind.REVISION, "lamp.v1.1.0"))["content"]["digest"]
    raw = content(catalog, digest)
    files = untar(raw)
    crd = "manifests/customresourcedefinition-lamps.example.com"
    assert list(files) == [
        "bundle.json",
        "manifests/clusterserviceversion-lamp.v1.1.0.json",
        f"{crd}-2.yaml",
        f"{crd}.yaml",
    ]
    assert files[f"{crd}.yaml"] == files[f"{crd}-2.yaml"]
    assert files[f"{crd}.yaml"].startswith(b"apiVersion: apiextensions.k8s.io/v1\nkind:")
    assert files["bundle.json"].startswith(
        b'{\n  "name": "lamp.v1.1.0",\n  "package": "lamp",\n  "properties": [\n    {\n      "type": "olm.package",\n'
    )
    assert catalog.blobs[Digest(digest)].head.files == tuple((path, len(file)) for path, file in files.items())
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert archive.getnames() == list(files)


async def test_the_csv_inside_wins_over_the_metadata_property(parsed: Parse) -> None:
    found = status(the(await parsed(FIXTURES, "good/manifests-inside.yaml"), Kind.PACKAGE))
    assert (found["displayName"], found["summary"]) == ("Lamp", "Keeps the lights on.")
    assert (found["keywords"], found["categories"]) == (["light"], ["Lighting", "Monitoring"])
    assert found["provider"] == {"name": "Example, Inc"}


async def test_scalars_arrive_as_go_reads_them(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "good/go-scalars.yaml")
    digest = status(the(catalog, Kind.REVISION, "lamp.v1.0.0"))["content"]["digest"]
    document = orjson.loads(untar(content(catalog, digest))["bundle.json"])
    assert document["properties"][1]["value"] == {
        "date": "2024-01-02",
        "stamp": "2025-06-24T14:07:09",
        "y1": True,
        "on1": True,
        "time": "12:30",
        "e": 1000,
        "octal": 12,
        "quoted": "no",
        "~x": None,
    }


async def test_a_release_has_a_name_of_its_own(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "good/release.yaml")
    names = [record.name for record in catalog.packages[0].records]
    assert len(set(names)) == 3
    assert the(catalog, Kind.REVISION, "lamp-v1.0.0-2").name in names


async def test_the_form_of_the_files_does_not_matter(parsed: Parse, tmp_path: Path) -> None:
    yaml = await parsed(FIXTURES, "good/plain.yaml")
    documents = [
        orjson.loads(untar(content(yaml, status(record)["content"]["digest"]))["bundle.json"])
        for record in yaml.packages[0].records[:-1]
    ]
    documents += [
        {"schema": "olm.package", "name": "lamp", "defaultChannel": "stable"},
        {
            "schema": "olm.channel",
            "package": "lamp",
            "name": "stable",
            "entries": [{"name": "lamp.v1.1.0", "replaces": "lamp.v1.0.0"}, {"name": "lamp.v1.0.0"}],
        },
    ]
    lines = [orjson.dumps(document) for document in documents]
    pretty = [orjson.dumps(document, option=orjson.OPT_INDENT_2) for document in documents]
    forms = {
        "lines": {"catalog.json": b"\n".join(lines)},
        "one-line": {"catalog.json": b"".join(lines)},
        "pretty": {"catalog.json": b"\n".join(pretty)},
        "files": {f"{at}/{at}.yaml": b"---\n" + line + b"\n---\n" for at, line in enumerate(pretty)},
        "json-then-yaml": {"catalog": lines[0] + b"\n---\n" + b"\n---\n".join(lines[1:])},
    }
    for form, files in forms.items():
        for path, written in files.items():
            (tmp_path / form / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / form / path).write_bytes(written)
        catalog = await parsed(tmp_path / form)
        assert list(catalog.findings) == [], form
        assert but_for_documents(catalog) == but_for_documents(yaml), form


async def test_what_is_known_and_unchanged_is_not_parsed_again(parsed: Parse, tmp_path: Path) -> None:
    root = copied("good/plain.yaml", tmp_path)
    copied("kettle.yaml", root)
    first = await parsed(root)
    assert [package.name for package in first.packages] == ["kettle", "lamp"]
    again = await parsed(root, known=first.index)
    assert (list(again.packages), again.unchanged, again.revisions) == ([], ["kettle", "lamp"], 3)
    assert (again.index, dict(again.blobs)) == (first.index, {})

    text = (root / "plain.yaml").read_text().replace("bundle:v1.1.0", "bundle:v1.1.0-fixed")
    (root / "plain.yaml").write_text(text)
    changed = await parsed(root, known=first.index)
    assert ([package.name for package in changed.packages], changed.unchanged) == (["lamp"], ["kettle"])
    assert changed.packages[0].input_hash != first.packages[1].input_hash
    fresh = await parsed(root)
    assert [package.records for package in fresh.packages if package.name == "lamp"] == [changed.packages[0].records]
    # Only the changed document's content is new; the other revision's is stored already.
    assert set(changed.blobs) == {
        status(the(changed, Kind.REVISION, "lamp.v1.1.0"))["content"]["digest"],
        status(the(changed, Kind.PACKAGE))["documents"]["digest"],
    }
    assert fresh.index == changed.index


@pytest.mark.parametrize("known", [b"rubbish", zstandard.compress(b"another version\nP x y")])
async def test_an_index_that_cannot_be_used_only_costs_time(known: bytes, parsed: Parse) -> None:
    assert len((await parsed(FIXTURES, "kettle.yaml", known=known)).packages) == 1


async def test_a_rejected_package_is_not_remembered(parsed: Parse, tmp_path: Path) -> None:
    root = copied("bad/NoImage.yaml", tmp_path)
    first = await parsed(root)
    again = await parsed(root, known=first.index)
    assert list(again.rejected) == list(first.rejected) == ["lamp"]
    assert again.findings == first.findings


async def test_an_icon_of_a_foreign_type_is_left_out_with_a_warning(parsed: Parse, tmp_path: Path) -> None:
    text = (FIXTURES / "good" / "everything.yaml").read_text().replace("image/svg+xml", "text/html")
    (tmp_path / "catalog.yaml").write_text(text)
    catalog = await parsed(tmp_path)
    assert [(finding.reason, finding.warning) for finding in catalog.findings] == [("IconType", True)]
    assert "icon" not in status(the(catalog, Kind.PACKAGE))
    assert not catalog.unreadable


async def test_a_duplicate_key_is_a_warning(parsed: Parse, tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text((FIXTURES / "kettle.yaml").read_text() + "---\nschema: x\na: 1\na: 2\n")
    catalog = await parsed(tmp_path)
    [finding] = catalog.findings
    assert (finding.reason, finding.line, finding.document, finding.warning) == ("DuplicateKey", 25, 4, True)
    assert not catalog.unreadable


async def test_a_file_among_the_catalog_that_is_none_is_told_unless_ignored(parsed: Parse, tmp_path: Path) -> None:
    root = copied("kettle.yaml", tmp_path)
    (root / "README.md").write_text("How to use it")
    catalog = await parsed(root)
    assert [(finding.reason, finding.path) for finding in catalog.findings] == [("NotAnObject", "README.md")]
    assert catalog.unreadable
    (root / ".indexignore").write_text("*.md\n")
    assert list((await parsed(root)).findings) == []


async def test_what_the_source_left_out_may_be_missing(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "kettle.yaml", refused=(("secret.yaml", "a link out of the root"),))
    found = [(finding.reason, finding.path, finding.package) for finding in catalog.findings]
    assert found == [("Refused", "secret.yaml", ""), ("HeldBack", "secret.yaml", "kettle")]
    assert catalog.unreadable


async def test_a_vanished_file_is_told(parsed: Parse, tmp_path: Path) -> None:
    catalog = await parsed(copied("kettle.yaml", tmp_path), "kettle.yaml", "gone.yaml")
    found = [(finding.reason, finding.path, finding.package) for finding in catalog.findings]
    assert found == [("Unreadable", "gone.yaml", ""), ("HeldBack", "gone.yaml", "kettle")]
    assert list(catalog.packages) == []


async def test_an_empty_tree_is_an_empty_catalog(parsed: Parse, tmp_path: Path) -> None:
    catalog = await parsed(tmp_path)
    assert (list(catalog.packages), list(catalog.findings), catalog.unreadable) == ([], [], False)


async def test_findings_alone_need_no_blobs(parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, "good/everything.yaml", blobs=False)
    assert dict(catalog.blobs) == {}
    assert "documents" not in status(the(catalog, Kind.PACKAGE))
    assert but_for_documents(catalog) == but_for_documents(await parsed(FIXTURES, "good/everything.yaml"))


async def test_a_large_file_is_read_in_parts_and_positions_stay_true(parsed: Parse, tmp_path: Path) -> None:
    kettle = (FIXTURES / "kettle.yaml").read_text()
    filler = "".join(f"---\nschema: filler\nat: {at}\ntext: {'x' * 1000}\n" for at in range(9000))
    (tmp_path / "catalog.yaml").write_text(f"{kettle}{filler}---\nschema: 5\n")
    catalog = await parsed(tmp_path)
    assert list(catalog.rejected) == ["kettle"]
    [finding, _] = catalog.findings
    lines = (tmp_path / "catalog.yaml").read_text().splitlines()
    assert (finding.reason, finding.document, lines[finding.line - 1]) == ("NotAString", 9004, "schema: 5")


async def test_long_channels_with_many_skips_take_linear_time(parsed: Parse, tmp_path: Path) -> None:
    names = [f"lamp.v{at}.0.0" for at in range(600)]
    entries = [{"name": name, "skips": names[max(0, at - 90) : at]} for at, name in enumerate(names)]
    documents: list[dict[str, Any]] = [
        {"schema": "olm.package", "name": "lamp", "defaultChannel": "stable"},
        {"schema": "olm.channel", "package": "lamp", "name": "stable", "entries": entries},
    ]
    documents += [
        {
            "schema": "olm.bundle",
            "package": "lamp",
            "name": name,
            "image": "x",
            "properties": [{"type": "olm.package", "value": {"packageName": "lamp", "version": f"{at}.0.0"}}],
        }
        for at, name in enumerate(names)
    ]
    (tmp_path / "catalog.json").write_bytes(b"\n".join(map(orjson.dumps, documents)))
    catalog = await parsed(tmp_path)
    assert list(catalog.findings) == []
    assert catalog.revisions == 600


async def test_an_object_stays_bounded_whatever_a_bundle_says(parsed: Parse, tmp_path: Path) -> None:
    apis = [{"type": "olm.gvk", "value": {"group": "g" * 500, "version": "v1", "kind": f"K{at}"}} for at in range(500)]
    text = orjson.dumps(
        {
            "schema": "olm.bundle",
            "package": "kettle",
            "name": "kettle.v0.3.0",
            "image": "x",
            "properties": [
                {"type": "olm.package", "value": {"packageName": "kettle", "version": "0.3.0"}},
                {
                    "type": "olm.csv.metadata",
                    "value": {
                        "description": "word " * 9000,
                        "displayName": "n" * 9000,
                        "keywords": [f"k{at}" * 99 for at in range(99)],
                    },
                },
                *apis,
            ],
        }
    )
    package = (FIXTURES / "kettle.yaml").read_bytes().rpartition(b"---\n")[0]
    (tmp_path / "catalog.yaml").write_bytes(package + b"---\n" + text)
    catalog = await parsed(tmp_path)
    found = status(the(catalog, Kind.PACKAGE))
    assert len(found["summary"]) <= 200
    assert found["summary"].endswith("word…")
    assert len(the(catalog, Kind.PACKAGE).status) < ParseLimits().record_bytes
    assert len(the(catalog, Kind.REVISION).status) < ParseLimits().record_bytes


async def test_a_format_may_be_asked_for(workers: Workers, tmp_path: Path) -> None:
    tree = Tree(FIXTURES, ("kettle.yaml",), "")
    assert (await parse(tree, Format.FBC, KEY, workers, scratch=tmp_path)).revisions == 1


async def test_progress_reaches_the_total(workers: Workers, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    tree = Tree(FIXTURES, ("good/plain.yaml", "kettle.yaml"), "")
    await parse(tree, None, KEY, workers, scratch=tmp_path, progress=lambda *step: steps.append(step))
    size = sum((FIXTURES / path).stat().st_size for path in tree.files)
    assert steps[-1] == ("parsing", size, size)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ParseLimits(file_bytes=100), "FileTooLarge"),
        (ParseLimits(document_bytes=100), "DocumentTooLarge"),
        (ParseLimits(depth=2), "TooDeep"),
        (ParseLimits(containers=3), "TooManyNodes"),
    ],
)
async def test_every_limit_is_named(limits: ParseLimits, reason: str) -> None:
    report = scan(Part("good/plain.yaml", 0, 1 << 20), FIXTURES, frozenset(), None, limits)
    assert {finding.reason for finding in report.findings} == {reason}


async def test_too_many_documents_refuse_the_catalog(tmp_path: Path) -> None:
    tree = Tree(FIXTURES, ("good/plain.yaml", "kettle.yaml"), "")
    async with Workers(1, ParseLimits(documents=5)) as pool:
        with pytest.raises(CatalogError, match="more than 5 documents"):
            await parse(tree, None, KEY, pool, scratch=tmp_path)
        catalog = await parse(Tree(FIXTURES, ("good/everything.yaml",), ""), None, KEY, pool, scratch=tmp_path)
        assert list(catalog.findings) == []


async def test_a_file_full_of_noise_is_told_in_few_words(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text("---\n- noise\n" * 50)
    limits = ParseLimits(findings=3, documents=40)
    report = scan(Part("catalog.yaml", 0, 1 << 20), tmp_path, frozenset(), None, limits)
    assert [finding.reason for finding in report.findings] == [*["NotAnObject"] * 3, "TooManyDocuments", "MoreFindings"]
