"""What operator-registry makes of a package's documents: messages, CSVs, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence

import orjson
import pytest
import zstandard

from cacheserver.catalogs.fbc.registry import answers, wire
from cacheserver.catalogs.fbc.registry.protobuf import message
from cacheserver.catalogs.fbc.registry.wire import Packed, Place, Refused
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.compat.registry import registry_pb2 as pb
from tests.support.fbc_documents import (
    Document,
    bundle,
    channel,
    deprecations,
    entry,
    gvk,
    kettle,
    manifest,
    metadata,
    package,
    prop,
)


def lines(documents: Sequence[Document]) -> list[bytes]:
    return [orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in documents]


def packed(documents: Sequence[Document], name: str = "app") -> Packed | Refused:
    """Through the messages to and from a worker, as it is in a server."""
    return wire.decode_packed(answers.answer(wire.encode_job(name, lines(documents)), ParseLimits()))


def good(documents: Sequence[Document], name: str = "app") -> Packed:
    found = packed(documents, name)
    assert isinstance(found, Packed), found
    return found


def refusal(documents: Sequence[Document]) -> str:
    found = packed(documents)
    assert isinstance(found, Refused), found
    return found.reason


def app(
    *properties: Document, image: str | None = None, said: Document | None = None, **more: object
) -> list[Document]:
    return [
        said or package("app"),
        channel("app", "stable", entry("app.v1.0.0")),
        bundle("app", "1.0.0", *properties, image=image, **more),
    ]


def read(found: Packed, place: Place) -> bytes:
    block = zstandard.ZstdDecompressor().decompress(found.blocks[place.block])
    return block[place.at : place.at + place.size]


def message_of(documents: Sequence[Document]) -> pb.Bundle:
    found = good(documents)
    stored = found.bundles["app.v1.0.0"]
    inline = read(found, stored.inline)
    if stored.made:
        inline = message(4, inline) + message(5, inline)
    made: pb.Bundle = pb.Bundle.FromString(read(found, stored.plain) + inline)
    return made


def csv_of(documents: Sequence[Document]) -> Document:
    made: Document = json.loads(message_of(documents).csvJson)
    return made


# --- the message ---


def test_properties_come_as_they_are_written_and_apis_and_dependencies_beside_them() -> None:
    found = message_of(
        app(
            gvk("a.example.com", "v1", "A"),
            gvk("b.example.com", "v2", "B", required=True),
            prop("olm.package.required", {"packageName": "b", "versionRange": ">=1 <2"}),
            prop("olm.maxOpenShiftVersion", "4.20"),
            prop("odd", {"z": 1e21, "a": "\u2028<&>", "n": None}),
        )
    )
    assert (found.csvName, found.packageName, found.bundlePath) == (
        "app.v1.0.0",
        "app",
        "registry.example.com/app:v1.0.0",
    )
    assert found.version == "1.0.0"
    assert [(api.group, api.version, api.kind) for api in found.providedApis] == [("a.example.com", "v1", "A")]
    assert [(api.group, api.version, api.kind) for api in found.requiredApis] == [("b.example.com", "v2", "B")]
    assert [(one.type, one.value) for one in found.dependencies] == [
        ("olm.gvk", '{"group":"b.example.com","kind":"B","version":"v2"}'),
        ("olm.package", '{"packageName":"b","version":">=1 <2"}'),
    ]
    assert [(one.type, one.value) for one in found.properties] == [
        ("olm.package", '{"packageName":"app","version":"1.0.0"}'),
        ("olm.gvk", '{"group":"a.example.com","kind":"A","version":"v1"}'),
        ("olm.gvk.required", '{"group":"b.example.com","kind":"B","version":"v2"}'),
        ("olm.package.required", '{"packageName":"b","versionRange":">=1 <2"}'),
        ("olm.maxOpenShiftVersion", '"4.20"'),
        ("odd", '{"a":"\\u2028<&>","n":null,"z":1e+21}'),
    ]


def test_heads_edges_and_deprecations_are_in_the_index() -> None:
    found = good(kettle(), "kettle")
    assert {name: (each.head, each.deprecation) for name, each in found.channels.items()} == {
        "alpha": ("kettle.v1.2.0", "use stable"),
        "stable": ("kettle.v1.2.0", None),
    }
    edge = found.channels["stable"].entries["kettle.v1.2.0"]
    assert (edge.replaces, edge.skips, edge.skip_range) == ("kettle.v1.0.0", ("kettle.v1.1.0",), ">=1.0.0 <1.2.0")
    assert found.provided == {
        ("kettle.example.com", "v1", "Kettle"): ("kettle.v1.0.0", "kettle.v1.1.0", "kettle.v1.2.0")
    }
    leaking = pb.Bundle.FromString(read(found, found.bundles["kettle.v1.1.0"].plain))
    assert leaking.deprecation.message == "leaks"


def test_documents_of_other_schemas_are_kept_by_schema() -> None:
    found = good([*app(), {"schema": "example.note", "package": "app", "text": "<hello>"}])
    [place] = found.others["example.note"]
    assert json.loads(read(found, place)) == {"schema": "example.note", "package": "app", "text": "<hello>"}


# --- the CSV ---


def test_a_csv_is_made_of_its_metadata_with_what_a_package_server_needs() -> None:
    icon = {"base64data": "PHN2\nZz4=", "mediatype": "image/svg+xml"}
    made = message_of(
        app(
            metadata(
                displayName="App",
                annotations={"b": "2", "a": "1"},
                keywords=["x"],
                installModes=[{"type": "AllNamespaces", "supported": True}, {"type": "OwnNamespace"}],
                crdDescriptions={"owned": [{"kind": "A", "name": "as.example.com", "version": "v1", "unknown": 1}]},
                apiServiceDefinitions={"required": [{"name": "b", "containerPort": 443}]},
                nativeAPIs=[{"group": "", "version": "v1", "kind": "Pod"}],
                provider={"name": "Example", "else": "gone"},
                unknown="gone",
            ),
            said=package("app", description="of the <package>", icon=icon),
            relatedImages=[{"name": "", "image": "registry.example.com/x:1"}],
        )
    )
    assert list(made.object) == [made.csvJson]
    assert "of the \\u003cpackage\\u003e" in made.csvJson
    assert json.loads(made.csvJson) == {
        "kind": "ClusterServiceVersion",
        "apiVersion": "operators.coreos.com/v1alpha1",
        "metadata": {"name": "app.v1.0.0", "annotations": {"a": "1", "b": "2"}},
        "spec": {
            "install": {"strategy": "deployment", "spec": {"deployments": None}},
            "version": "1.0.0",
            "customresourcedefinitions": {"owned": [{"name": "as.example.com", "version": "v1", "kind": "A"}]},
            "apiservicedefinitions": {
                "required": [{"name": "b", "group": "", "version": "", "kind": "", "containerPort": 443}]
            },
            "nativeAPIs": [{"group": "", "version": "v1", "kind": "Pod"}],
            "displayName": "App",
            "description": "of the <package>",
            "keywords": ["x"],
            "provider": {"name": "Example"},
            "icon": [{"base64data": "PHN2Zz4=", "mediatype": "image/svg+xml"}],
            "installModes": [
                {"type": "AllNamespaces", "supported": True},
                {"type": "OwnNamespace", "supported": False},
            ],
            "cleanup": {"enabled": False},
            "relatedImages": [{"name": "", "image": "registry.example.com/x:1"}],
        },
        "status": {"cleanup": {}},
    }


def test_an_empty_metadata_makes_the_least_csv() -> None:
    assert csv_of(app(prop("olm.csv.metadata", None)))["spec"] == {
        "install": {"strategy": "deployment", "spec": {"deployments": None}},
        "version": "1.0.0",
        "customresourcedefinitions": {},
        "apiservicedefinitions": {},
        "displayName": "",
        "provider": {},
        "cleanup": {"enabled": False},
    }


def test_raw_values_of_descriptors_stay_what_they_are_null_among_them() -> None:
    described = {"name": "a", "kind": "A", "version": "v1"}
    values = [{"path": "a", "value": None}, {"path": "b", "value": {"z": [1e21]}}, {"path": "c"}]
    made = csv_of(app(metadata(crdDescriptions={"owned": [described | {"specDescriptors": values}]})))
    assert made["spec"]["customresourcedefinitions"]["owned"][0]["specDescriptors"] == values


def test_the_csv_among_the_manifests_wins_and_all_manifests_come_as_json() -> None:
    written = b'{"kind": "ClusterServiceVersion",  "metadata": {"name": "<own>"}}'
    found = message_of(
        app(
            manifest(b"kind: Service\nmetadata: {name: a, port: 0o17}\n"),
            manifest(b"apiVersion: v1\nkind: ClusterServiceVersion\nmetadata:\n  name: <first>\n"),
            manifest(written),
            metadata(displayName="not this"),
        )
    )
    assert found.csvJson == (
        '{"apiVersion":"v1","kind":"ClusterServiceVersion","metadata":{"name":"\\u003cfirst\\u003e"}}'
    )
    assert list(found.object) == [
        '{"kind":"Service","metadata":{"name":"a","port":15}}',
        found.csvJson,
        written.decode(),  # what is JSON stays as it was written
    ]


def test_manifests_without_a_csv_leave_the_made_one_beside_them() -> None:
    found = message_of(app(manifest(b"kind: Service"), metadata(displayName="App")))
    assert json.loads(found.csvJson)["spec"]["displayName"] == "App"
    assert list(found.object) == ['{"kind":"Service"}']


def test_a_bundle_without_either_has_no_csv() -> None:
    found = message_of(app())
    assert (found.csvJson, list(found.object)) == ("", [])


def test_only_a_bundle_without_image_brings_its_manifests_in_lists() -> None:
    csv = manifest(b"kind: ClusterServiceVersion")
    assert good(app(csv, image="")).bundles["app.v1.0.0"].listed
    assert not good(app(csv)).bundles["app.v1.0.0"].listed


# --- what is refused, by name ---


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (app(metadata(), metadata()), "bundle 'app.v1.0.0': 1 properties olm.package and 2 olm.csv.metadata"),
        (app(prop("olm.package", {"packageName": "app", "version": "2.0.0"})), "2 properties olm.package"),
        (app(metadata(displayName=1)), "displayName must be a string, not a number"),
        (app(metadata(crdDescriptions=[])), "crdDescriptions must be an object, not a list"),
        (app(metadata(crdDescriptions={"owned": [{"name": {}}]})), "name must be a string, not an object"),
        (app(metadata(installModes=[{"supported": "yes"}])), "supported must be a boolean, not a string"),
        (app(metadata(apiServiceDefinitions={"owned": [{"containerPort": 1 << 31}]})), "containerPort must be a whole"),
        (app(metadata(annotations={"a": True})), "annotations['a'] must be a string, not a boolean"),
        (app(prop("olm.csv.metadata", "text")), "olm.csv.metadata must be an object, not a string"),
        (app(prop("olm.bundle.object", {"data": "%"})), "data is not base64"),
        (app(manifest(b"a: [")), "bundle 'app.v1.0.0': "),
        (app(said=package("app", icon={"base64data": "%"})), "icon.base64data is not base64"),
        ([*app(), package("app")], "duplicate package 'app'"),
        ([*app(), channel("app", "stable")], "duplicate channel 'stable'"),
        ([*app(), bundle("app", "1.0.0")], "duplicate bundle 'app.v1.0.0'"),
        ([*app(), channel("app", "twice", entry("a"), entry("a"))], "channel 'twice': duplicate entry 'a'"),
        ([*app(), channel("app", "bare")], "channel 'bare': has no head"),
        ([*app(), channel("app", "ring", entry("a", "b"), entry("b", "a"))], "channel 'ring': has no head"),
        ([*app(), channel("app", "fork", entry("a"), entry("b"))], "channel 'fork': has 2 heads"),
        (app(prop("large", "x" * (4 << 20))), "in a list; clients take"),
        (app(manifest(b'{"kind": "A", "a": "' + b"x" * (4 << 20) + b'"}'), image=""), "in a list; clients take"),
    ],
)
def test_what_the_reference_or_its_clients_refuse_is_refused(documents: Sequence[Document], words: str) -> None:
    assert words in refusal(documents)


def test_a_huge_csv_is_no_reason_as_long_as_lists_do_not_show_it() -> None:
    huge = manifest(b'{"kind": "ClusterServiceVersion", "a": "' + b"x" * (5 << 20) + b'"}')
    assert len(message_of(app(huge)).csvJson) > 5 << 20


def test_names_that_channels_mention_are_bounded() -> None:
    skips = [f"{at:0200}" for at in range(2000)]
    many = [channel("app", f"c{at}", entry("app.v1.0.0", "", skips)) for at in range(100)]
    assert "names in its channels come to more than" in refusal([*app(), *many])


def test_thirty_thousand_channels_share_their_bundles() -> None:
    many = [channel("app", f"c{at}", entry("app.v1.0.0")) for at in range(30_000)]
    found = good([*app(metadata()), *many])
    assert len(found.channels) == 30_001
    assert len(found.blocks) == 2
    assert found.weight < 32 << 20


def test_deprecations_of_the_package_itself_are_told() -> None:
    assert good([*app(), deprecations("app", ("olm.package", "", "gone"))]).deprecation == "gone"
