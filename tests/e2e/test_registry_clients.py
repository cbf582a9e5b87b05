"""Go's gRPC client, through reflection, on `opm serve` and on our door of the same catalog: the same answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import odd_catalog, olm
from tests.support.etcd import FoundEtcd, free_ports
from tests.support.olm import Called, OpmServe
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

REAL: Final = Path(__file__).parents[3] / "shared" / "data" / "fbc" / "community-v4.20"
ACKNOWLEDGED: Final = {"x_acknowledge_experimental": "true"}


@dataclass(frozen=True, slots=True)
class Pair:
    """The reference and our door, at work on one catalog."""

    client: Path
    theirs: str
    ours: str

    def both(self, method: str, data: object = None, **headers: str) -> tuple[Called, Called]:
        """What each answers: the reference first."""
        theirs, ours = (
            olm.grpcurl(self.client, address, f"api.{method}", data=data, **headers)
            for address in (self.theirs, self.ours)
        )
        return theirs, ours


@pytest.fixture(scope="module", params=["odd", "real"])
def pair(
    request: pytest.FixtureRequest, etcd_binary: FoundEtcd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    client, opm = olm.program(olm.GRPCURL), olm.program(olm.OPM)
    home = tmp_path_factory.mktemp("registries")
    if request.param == "odd":
        catalog = odd_catalog.write(home / "odd")
    elif REAL.is_dir():
        catalog = REAL
    else:
        pytest.skip("NO REAL CATALOG: no folder shared next to the repository")
    port = free_ports(1)[0]
    server = ServerProcess(
        home,
        *("--catalog", f"tea={catalog}", "--registry", f"tea=127.0.0.1:{port}"),
        *("--data-dir", str(home / "data"), "--etcd-binary", str(etcd_binary.path)),
    )
    try:
        with OpmServe(opm, catalog, home / "opm") as theirs:
            server.start()
            pair = Pair(client, theirs.address, f"127.0.0.1:{port}")
            until(lambda: olm.accepts(pair.ours), within_s=30, otherwise=server.log)  # once the catalog was read
            yield pair
    finally:
        server.stop()


def test_it_has_the_services_of_the_reference(pair: Pair) -> None:
    theirs, ours = (olm.grpcurl(pair.client, address, "list") for address in (pair.theirs, pair.ours))
    assert ours == theirs


def test_it_is_healthy_as_the_reference_is(pair: Pair) -> None:
    for service in ("", "api.Registry"):
        theirs, ours = (
            olm.grpcurl(pair.client, address, "grpc.health.v1.Health/Check", data={"service": service})
            for address in (pair.theirs, pair.ours)
        )
        assert ours == theirs


def test_it_lists_every_bundle_in_the_order_of_the_reference(pair: Pair) -> None:
    theirs, ours = pair.both("Registry/ListBundles")
    assert [_place(each) for each in ours.messages] == [_place(each) for each in theirs.messages]
    assert len(theirs.messages) > 5
    for mine, its in zip(ours.messages, theirs.messages, strict=True):
        assert olm.bundle(mine) == olm.bundle(its)


def test_it_tells_of_every_package_what_the_reference_tells(pair: Pair) -> None:
    theirs, ours = pair.both("Registry/ListPackages")
    names = [each["name"] for each in ours.messages]
    assert names == sorted(each["name"] for each in theirs.messages)
    for name in names:
        theirs, ours = pair.both("Registry/GetPackage", {"name": name})
        assert ours == theirs


def test_each_channels_head_is_that_of_the_reference(pair: Pair) -> None:
    theirs, _ = pair.both("Registry/ListPackages")
    for name in sorted(each["name"] for each in theirs.messages)[:12]:
        package, _ = pair.both("Registry/GetPackage", {"name": name})
        for channel in package.messages[0]["channels"]:
            theirs, ours = pair.both("Registry/GetBundleForChannel", {"pkgName": name, "channelName": channel["name"]})
            assert _bundles(ours) == _bundles(theirs), (name, channel)


def test_each_bundle_is_that_of_the_reference(pair: Pair) -> None:
    theirs, _ = pair.both("Registry/ListBundles")
    for each in theirs.messages[:: max(1, len(theirs.messages) // 20)]:
        asked = {"pkgName": each["packageName"], "channelName": each["channelName"], "csvName": each["csvName"]}
        theirs, ours = pair.both("Registry/GetBundle", asked)
        assert _bundles(ours) == _bundles(theirs), asked


def test_what_replaces_and_provides_is_as_at_the_reference(pair: Pair) -> None:
    theirs, ours = pair.both("Registry/GetChannelEntriesThatReplace", {"csvName": ""})
    assert _in_any_order(ours) == _in_any_order(theirs), "those that replace nothing"
    listed, _ = pair.both("Registry/ListBundles")
    step = max(1, len(listed.messages) // 8)
    for each in listed.messages[::step]:
        data = {"csvName": each["csvName"]}
        theirs, ours = pair.both("Registry/GetChannelEntriesThatReplace", data)
        assert _in_any_order(ours) == _in_any_order(theirs), data
        data |= {"pkgName": each["packageName"], "channelName": each["channelName"]}
        theirs, ours = pair.both("Registry/GetBundleThatReplaces", data)
        assert _bundles(ours) == _bundles(theirs), data
    for api in _apis(listed.messages)[:6]:
        for method in ("GetChannelEntriesThatProvide", "GetLatestChannelEntriesThatProvide"):
            theirs, ours = pair.both(f"Registry/{method}", api)
            assert _in_any_order(ours) == _in_any_order(theirs), (method, api)
        theirs, ours = pair.both("Registry/GetDefaultBundleThatProvides", api)
        assert _bundles(ours) == _bundles(theirs), api


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("GetPackage", {"name": "nope"}),
        ("GetPackage", {}),
        ("GetBundle", {"pkgName": "nope"}),
        ("GetBundle", {"pkgName": "PACKAGE", "channelName": "nope"}),
        ("GetBundle", {"pkgName": "PACKAGE", "channelName": "CHANNEL", "csvName": "nope"}),
        ("GetBundleForChannel", {"pkgName": "nope"}),
        ("GetBundleForChannel", {"pkgName": "PACKAGE", "channelName": "nope"}),
        ("GetBundleThatReplaces", {"csvName": "nope"}),
        ("GetBundleThatReplaces", {"csvName": "nope", "pkgName": "PACKAGE", "channelName": "nope"}),
        ("GetBundleThatReplaces", {"csvName": "nope", "pkgName": "PACKAGE", "channelName": "CHANNEL"}),
        ("GetChannelEntriesThatReplace", {"csvName": "nope"}),
        ("GetChannelEntriesThatProvide", {"group": "a", "version": "v1", "kind": "B"}),
        ("GetChannelEntriesThatProvide", {"group": 'a"\n', "version": "\u00e9", "kind": "B", "plural": "bs"}),
        ("GetChannelEntriesThatProvide", {}),
        ("GetLatestChannelEntriesThatProvide", {"group": "a", "version": "v1", "kind": "B"}),
        ("GetDefaultBundleThatProvides", {"group": "a", "version": "v1", "kind": "B"}),
        ("GetDefaultBundleThatProvides", {}),
    ],
)
def test_it_refuses_in_the_words_of_the_reference(pair: Pair, method: str, data: dict[str, str]) -> None:
    listed, _ = pair.both("Registry/ListBundles")
    known = {"PACKAGE": listed.messages[0]["packageName"], "CHANNEL": listed.messages[0]["channelName"]}
    asked = {name: known.get(value, value) for name, value in data.items()}
    theirs, ours = pair.both(f"Registry/{method}", asked)
    assert theirs.code, "the reference has an answer"
    assert ours == theirs


@pytest.mark.parametrize("headers", [{}, ACKNOWLEDGED, {"x_acknowledge_experimental": "yes"}])
@pytest.mark.parametrize(
    "data",
    [
        {"schema": "example.com.lifecycle", "packageName": "kettle"},
        {"schema": "example.com.lifecycle"},
        {"schema": "example.com.note"},
        {"schema": "example.com.note", "packageName": "kettle"},
        {"schema": "olm.package", "packageName": "kettle"},
        {"schema": "olm.channel", "packageName": "kettle"},
        {"schema": "olm.package"},
        {"schema": "nope", "packageName": "nope"},
        {},
        {"schema": "no/schema"},
        {"schema": ".nope"},
        {"schema": "olm.package", "packageName": "no/package"},
    ],
)
def test_custom_schemas_come_as_from_the_reference(pair: Pair, data: dict[str, str], headers: dict[str, str]) -> None:
    theirs, ours = pair.both("ExperimentalRegistry/ExperimentalListPackageCustomSchemas", data, **headers)
    assert (ours.code, ours.text) == (theirs.code, theirs.text)
    assert sorted(ours.messages, key=str) == sorted(theirs.messages, key=str)


def _place(message: dict[str, Any]) -> tuple[str, str, str]:
    return message["channelName"], message["packageName"], message["csvName"]


def _bundles(called: Called) -> tuple[Sequence[Any], str, str]:
    return [olm.bundle(each) for each in called.messages], called.code, called.text


def _in_any_order(called: Called) -> tuple[Sequence[Any], str, str]:
    """The reference goes through Go maps."""
    return sorted(called.messages, key=str), called.code, called.text


def _apis(messages: Sequence[Any]) -> list[dict[str, str]]:
    found = {
        (api["group"], api["version"], api["kind"])
        for each in messages[:: max(1, len(messages) // 20)]
        for api in (*each.get("providedApis", ())[:1], *each.get("requiredApis", ())[:1])
    }
    return [{"group": group, "version": version, "kind": kind} for group, version, kind in sorted(found)]
