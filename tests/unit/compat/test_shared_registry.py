"""Against what operator-registry answered for a real catalog, in the folder `shared` next to the repository."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence

import pytest
from google.protobuf.json_format import MessageToDict

from cacheserver.catalogs.documents import goyaml, splitter
from cacheserver.catalogs.fbc.registry import answers, wire
from cacheserver.catalogs.fbc.registry.wire import Packed
from cacheserver.catalogs.fbc.written import canonical
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.compat.registry import registry_pb2 as pb
from cacheserver.compat.registry.content import Content
from tests.support.shared import ABSENT, COMMUNITY, GOLDEN

ANSWERED = GOLDEN / "doors"
LIMITS = ParseLimits()

pytestmark = [
    pytest.mark.processes,  # reads ../shared
    pytest.mark.skipif(not ANSWERED.exists(), reason=ABSENT),
]


def lines() -> Mapping[str, Sequence[bytes]]:
    """The catalog's documents by package, as raw.py keeps them; none of it has U+2028."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(COMMUNITY.rglob("catalog.yaml")):
        with splitter.mapped(path) as view:
            pieces = [piece.raw for piece in splitter.yaml_pieces(view, 0, len(view), LIMITS.document_bytes)]
        for raw in pieces:
            document = goyaml.load(raw, LIMITS).value
            if isinstance(document, dict):
                named = document["name"] if document["schema"] == "olm.package" else document["package"]
                found.setdefault(str(named), []).append(canonical(document).rstrip(b"\n"))
    return found


@pytest.fixture(scope="module")
def content() -> Content:
    """All of community v4.20, through the messages to and from a worker."""
    made = [wire.decode_packed(answers.answer(wire.encode_job(name, some), LIMITS)) for name, some in lines().items()]
    return Content("golden", [one for one in made if isinstance(one, Packed)])


async def test_bundles_are_the_references_in_its_order(content: Content) -> None:
    golden = [line.split("\t") for line in (ANSWERED / "registry-listbundles.tsv").read_text().splitlines()[1:]]
    found = [message async for batch in content.list_bundles() for message in batch.messages]
    assert len(found) == len(golden)
    for message, row in zip(found, golden, strict=True):
        bundle = pb.Bundle.FromString(message)
        said = json.dumps(MessageToDict(bundle), sort_keys=True, separators=(",", ":")).encode()
        assert [bundle.channelName, bundle.packageName, bundle.csvName] == row[:3]
        assert hashlib.sha256(said).hexdigest() == row[-1], row[:3]
        await asyncio.sleep(0)


async def test_a_head_with_its_csv_is_the_references(content: Content) -> None:
    golden = json.loads((ANSWERED / "registry-head-kube-green.json").read_text())
    found = MessageToDict(pb.Bundle.FromString(await content.head("kube-green", "alpha")))
    assert found == golden


async def test_packages_channels_and_heads_are_the_references(content: Content) -> None:
    assert set(content.packages) == {*(ANSWERED / "registry-packages.txt").read_text().split()}
    shown = []
    for name in content.packages:
        package = pb.Package.FromString(content.package(name))
        for channel in package.channels:
            entries = len(content.packages[name].channels[channel.name].entries)
            default = "default" if channel.name == package.defaultChannelName else ""
            shown.append(f"{name}\t{channel.name}\t{channel.csvName}\t{entries} entries\t{default}")
    assert shown == (ANSWERED / "registry-manifests.txt").read_text().splitlines()[: len(shown)]


async def test_entries_of_channels_are_the_references(content: Content) -> None:
    golden = (ANSWERED / "registry-answers.txt").read_text().splitlines()
    api = ("kube-green.com", "v1alpha1", "SleepInfo")
    for command, batches in (
        ("provide", [batch async for batch in content.providers(api)]),
        ("latest-provide", [*content.latest_providers(api)]),
    ):
        begin = golden.index(f"$ -gvk {'/'.join(api)} {command}") + 1
        wanted = [json.loads(line) for line in golden[begin : begin + 10] if line.startswith('{"bundleName"')]
        found = [MessageToDict(pb.ChannelEntry.FromString(one)) for batch in batches for one in batch.messages]
        assert sorted(found, key=lambda one: str(one["bundleName"])) == sorted(
            (one for one in wanted[: len(found)]), key=lambda one: str(one["bundleName"])
        )
