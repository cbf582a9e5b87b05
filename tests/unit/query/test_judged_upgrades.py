"""Upgrades judged by OLM's own programs: v1's resolver, and operator-registry's queries for what replaces what.

Every package, channel and bundle of a real catalog, and of one that has what that lacks: deprecations, builds, and
channels that share bundles. CONTRIBUTING.md says how the programs are called; without one its test is skipped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

import grpc
import orjson
import pytest
import pytest_asyncio

from cacheserver.compat.registry import registry_pb2 as pb
from cacheserver.query.edges import REPLACES, SKIPS, Edges
from cacheserver.query.package import Bundle, Package, stranger
from cacheserver.query.upgrades import upgrades
from tests.support import fbc, olm, served
from tests.support.olm import OpmServe
from tests.support.shared import ABSENT, COMMUNITY

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

OLDER_THAN_ALL: Final = "0.0.0-0.installed"
"""Version of what is installed and in no catalog; no range of the catalogs here holds it by chance alone."""


def write_rare(root: Path) -> Path:
    """A catalog whose packages have what the real one has not."""
    builds = ["1.0.0", "1.0.0+1", "1.0.0+2", "1.0.0+10", "1.0.0+git.01", "1.1.0-rc.1+3", "1.1.0"]
    line = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    _package(
        root,
        "builds",
        builds,
        stable=[
            ("1.0.0",),
            ("1.0.0+1", "1.0.0"),
            ("1.0.0+2", "1.0.0+1", ["1.0.0+git.01"], "<1.0.0+2"),
            ("1.0.0+10", "1.0.0+2", [], ">=1.0.0 <1.0.0+10"),
            ("1.0.0+git.01",),
            ("1.1.0-rc.1+3", "1.0.0+10", [], "=1.0.0+7"),
            ("1.1.0", "1.1.0-rc.1+3", ["1.0.0+git.01"], ">=1.1.0-rc.1 <1.1.0"),
        ],
    )
    every = [(each, line[at - 1] if at else "", (), f"<{each}") for at, each in enumerate(line)]
    for name, old in (("last", ["1.3.0"]), ("middle", ["1.1.0", "1.2.0"]), ("first", ["1.0.0"]), ("all", line)):
        _package(root, f"deprecated-{name}", line, deprecated=old, stable=every)
    _package(
        root,
        "channels",
        [*line, "0.9.0"],
        deprecated=["1.3.0"],
        back=[("1.0.0", "1.2.0"), ("0.9.0", "1.0.0", ["1.3.0"], ">=1.0.0")],
        fast=[("1.2.0", "1.1.0"), ("1.3.0", "1.2.0", ["1.1.0"])],
        old=[("1.3.0", "", [], ">=1.0.0 <1.3.0")],
        stable=[("1.0.0", "0.1.0"), ("1.1.0", "1.0.0", ["0.2.0"], "1.x")],
    )
    return root


def _package(
    root: Path, name: str, versions: Sequence[str], deprecated: Sequence[str] = (), **channels: Sequence[Any]
) -> None:
    """channels: entries, each (version, version that it replaces, those that it skips, range)."""

    def called(version: str) -> str:
        return f"{name}.v{version}"

    documents: list[dict[str, Any]] = [{"schema": "olm.package", "name": name, "defaultChannel": max(channels)}]
    for channel, entries in channels.items():
        written = []
        for version, replaces, skips, skip_range in ((*each, *("", (), "")[len(each) - 1 :]) for each in entries):
            entry: dict[str, Any] = {"name": called(version), "skips": [*map(called, skips)]}
            written.append(
                entry
                | ({"replaces": called(replaces)} if replaces else {})
                | ({"skipRange": skip_range} if skip_range else {})
            )
        documents.append({"schema": "olm.channel", "package": name, "name": channel, "entries": written})
    documents += [fbc.bundle(name, version) for version in versions]
    if deprecated:
        entries = [
            {"reference": {"schema": "olm.bundle", "name": called(version)}, "message": "old"} for version in deprecated
        ]
        documents.append({"schema": "olm.deprecations", "package": name, "entries": entries})
    fbc.catalog(root).file(f"{name}/catalog.json", b"\n".join(map(orjson.dumps, documents)))


@pytest.fixture(scope="module", params=["real", "rare"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "rare":
        return write_rare(tmp_path_factory.mktemp("rare"))
    if not COMMUNITY.is_dir():
        pytest.skip(ABSENT)
    return COMMUNITY


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def packages(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Package]:
    return await served.packages(directory, tmp_path_factory.mktemp("scratch"))


def installed(package: Package) -> Iterator[Bundle]:
    """Whatever may be: its bundles, and what its entries name and it has no more."""
    yield from package.bundles.values()
    named = {
        each
        for channel in package.channels.values()
        for entry in channel.entries.values()
        for each in (entry.replaces, *entry.skips)
    }
    yield from (stranger(name, OLDER_THAN_ALL) for name in sorted(named - {*package.bundles, ""}))


def scopes(package: Package) -> Iterator[str]:
    yield from ("", *package.channels)


async def test_what_the_resolver_of_olm_v1_accepts_and_chooses(
    directory: Path, packages: Mapping[str, Package]
) -> None:
    binary = olm.program(olm.OPERATOR_CONTROLLER)
    asked = [
        (package, start, channel)
        for package in packages.values()
        for start, channel in product(installed(package), scopes(package))
    ]
    said = _resolved(binary, directory, asked)
    assert len(asked) > 60
    assert [(ours, theirs) for each, theirs in zip(asked, said, strict=True) if (ours := _ours(*each)) != theirs] == []


def _resolved(binary: Path, directory: Path, asked: Sequence[tuple[Package, Bundle, str]]) -> list[Any]:
    """What the resolver takes of each question, and of which it takes the best."""
    questions = (
        {"package": package.name, "channels": [channel] if channel else [], "name": start.name, "version": _sent(start)}
        for package, start, channel in asked
    )
    done = subprocess.run(
        [binary, "-directory", str(directory)],
        input=b"\n".join(map(orjson.dumps, questions)),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
    answers = map(orjson.loads, done.stdout.splitlines())
    return [
        (question[0].name, question[2], question[1].name, set(answer["accepted"]), answer["chosen"])
        for question, answer in zip(asked, answers, strict=True)
    ]


def _sent(start: Bundle) -> str:
    return start.written or OLDER_THAN_ALL


def _ours(package: Package, start: Bundle, channel: str) -> Any:
    """As _resolved: with what is installed, which the resolver takes as long as it is where it looks."""
    answer = upgrades(package, start, None, channel)
    places = [package.channels[channel]] if channel else list(package.channels.values())
    # The resolver tells what is installed by version and release (successors.go): builds that are no release are alike.
    same = {each.name for each in package.bundles.values() if each.order == start.order}
    stays = {name for each in places for name in each.entries if name in same}
    chosen = answer.automatic.steps[0].to if answer.automatic.steps else start.name if start.name in stays else ""
    return package.name, channel, start.name, stays | {edge.to for edge in answer.successors}, chosen


async def test_what_replaces_a_bundle_is_what_operator_registry_says(
    directory: Path, packages: Mapping[str, Package], tmp_path: Path
) -> None:
    binary = olm.program(olm.OPM)
    asked = 0
    with OpmServe(binary, directory, tmp_path / "opm") as reference, grpc.insecure_channel(reference.address) as wire:
        registry = _Registry(wire)
        for package in packages.values():
            edges = {name: Edges(package, [channel]) for name, channel in package.channels.items()}
            for start in installed(package):
                ours = {name: _replacing(found, start.name) for name, found in edges.items()}
                expected = {(package.name, channel, name) for channel, names in ours.items() for name in names}
                assert registry.entries(start.name, package.name) == expected, start.name
                for channel, names in ours.items():
                    # Of several it takes any, by the order of a map of Go's.
                    assert not names or registry.one(start.name, package.name, channel) in names, (channel, start.name)
                    asked += 1
    assert asked >= 30


def _replacing(edges: Edges, name: str) -> set[str]:
    """By name: the registry knows of no ranges here."""
    return {to for to, edge in edges.out_of(name).items() if {REPLACES, SKIPS} & {*edge.reasons}}


class _Registry:
    """A client of operator-registry's own; our messages are api.Registry's under another name."""

    def __init__(self, wire: grpc.Channel) -> None:
        self._entries = wire.unary_stream(
            "/api.Registry/GetChannelEntriesThatReplace",
            request_serializer=pb.GetAllReplacementsRequest.SerializeToString,
            response_deserializer=pb.ChannelEntry.FromString,
        )
        self._one = wire.unary_unary(
            "/api.Registry/GetBundleThatReplaces",
            request_serializer=pb.GetReplacementRequest.SerializeToString,
            response_deserializer=pb.Bundle.FromString,
        )

    def entries(self, name: str, package: str) -> set[tuple[str, str, str]]:
        """(package, channel, bundle) of those of the package that replace or skip it."""
        try:
            found = list(self._entries(pb.GetAllReplacementsRequest(csvName=name), timeout=30))
        except grpc.RpcError as exc:
            if "no channel entries found" not in str(exc.details()):
                raise
            return set()
        every = {(each.packageName, each.channelName, each.bundleName) for each in found}
        return {each for each in every if each[0] == package}

    def one(self, name: str, package: str, channel: str) -> str:
        """A bundle of the channel that replaces or skips it."""
        asked = pb.GetReplacementRequest(csvName=name, pkgName=package, channelName=channel)
        return str(self._one(asked, timeout=30).csvName)
