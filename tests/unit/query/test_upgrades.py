"""Upgrade paths: against a plain model on packages at random, and each rule on a package made for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs import semver
from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.query.edges import Edges, sorted_channel
from cacheserver.query.package import (
    MOST_BUNDLES,
    Bundle,
    Channel,
    Package,
    TooMuchError,
    check_size,
    order_of,
    read,
    stranger,
)
from cacheserver.query.upgrades import Upgrades, upgrades


def bundle(version: str, *, deprecated: bool = False, name: str = "") -> Bundle:
    parsed = semver.parse(version)
    return Bundle(name or f"app.v{version}", parsed, order_of(parsed), version, "", "old" if deprecated else "")


def package(channels: Mapping[str, Sequence[Entry]], *bundles: Bundle, default: str = "stable") -> Package:
    ordered = sorted(bundles, key=lambda each: each.order, reverse=True)
    made = {name: Channel(name, {entry.name: entry for entry in found}) for name, found in channels.items()}
    return Package("app", "FBC", {each.name: each for each in ordered}, made, default)


def entry(version: str, replaces: str = "", skips: Sequence[str] = (), skip_range: str = "") -> Entry:
    named = f"app.v{replaces}" if replaces else ""
    return Entry(f"app.v{version}", named, tuple(f"app.v{each}" for each in skips), skip_range)


def line(*versions: str, deprecated: Sequence[str] = ()) -> Package:
    """Each version replaces the one before."""
    entries = [entry(version, versions[at - 1] if at else "") for at, version in enumerate(versions)]
    return package({"stable": entries}, *(bundle(each, deprecated=each in deprecated) for each in versions))


def ask(found: Package, start: str, to: str = "", channel: str = "stable") -> Upgrades:
    begun = next(iter(found.called(start)), None) or stranger(start)
    return upgrades(found, begun, found.called(to)[0] if to else None, channel)


def names(steps: Sequence[object]) -> list[str]:
    return [str(getattr(step, "to", "")).removeprefix("app.v") for step in steps]


# --- against a plain model ---

VERSIONS = ["0.9.0", "1.0.0-rc.1", "1.0.0", "1.0.0+1", "1.1.0", "1.2.0", "2.0.0"]
RANGES = ["", "<1.0.0", ">=1.0.0 <1.2.0", "1.x", ">=1.0.x <2.0.0 !=1.1.0", "<1.0.0 || >1.1.0", "<=1.0.0+9"]
_names = st.sampled_from([f"app.v{version}" for version in [*VERSIONS, "0.1.0"]])
_entries = st.builds(
    Entry,
    st.sampled_from([f"app.v{version}" for version in VERSIONS]),
    st.one_of(st.just(""), _names),
    st.lists(_names, max_size=2).map(tuple),
    st.sampled_from(RANGES),
)
_channel = st.lists(_entries, min_size=1, max_size=7, unique_by=lambda each: each.name)


@st.composite
def _packages(draw: st.DrawFn) -> Package:
    channels = draw(st.dictionaries(st.sampled_from(["stable", "fast"]), _channel, min_size=1))
    old = draw(st.sets(st.sampled_from(VERSIONS), max_size=2))
    return package(channels, *(bundle(each, deprecated=each in old) for each in VERSIONS), default=min(channels))


def _is_edge(found: Package, start: Bundle, to: Entry) -> bool:
    if start.name == to.name:
        return False
    held = bool(to.skip_range) and start.version is not None and semver.parse_range(to.skip_range).holds(start.version)
    return start.name in (to.replaces, *to.skips) or held


def _model(found: Package, channels: Sequence[Channel], start: Bundle) -> set[str]:
    return {each.name for channel in channels for each in channel.entries.values() if _is_edge(found, start, each)}


def _shortest(found: Package, channels: Sequence[Channel], start: Bundle, to: str) -> int | None:
    front, seen, steps = {start.name}, {start.name}, 0
    known = {**found.bundles, start.name: start}
    while front:
        if to in front:
            return steps
        front = {name for each in front for name in _model(found, channels, known[each])} - seen
        seen |= front
        steps += 1
    return None


@given(_packages(), _names, st.sampled_from(VERSIONS), st.booleans())
def test_ways_are_those_of_a_plain_model(found: Package, start_name: str, to: str, one: bool) -> None:
    channel = min(found.channels) if one else ""
    channels = [found.channels[channel]] if channel else list(found.channels.values())
    start = found.bundles.get(start_name) or stranger(start_name)
    answer = upgrades(found, start, found.bundles[f"app.v{to}"], channel)
    known = {**found.bundles, start.name: start}
    expected = _shortest(found, channels, start, f"app.v{to}")
    assert {edge.to for edge in answer.successors} == _model(found, channels, start)
    if answer.path.reason is None:
        assert len(answer.path.steps) == expected
        at = start.name
        for step in answer.path.steps:
            assert step.to in _model(found, channels, known[at])
            at = step.to
        assert at == f"app.v{to}"
    elif answer.path.reason.name not in ("Same", "TargetNotInChannel"):
        assert expected is None
    worths = [(not b.deprecation, b.order) for b in (found.bundles[step.to] for step in answer.automatic.steps)]
    assert worths == sorted(worths)


@given(_packages(), _names)
def test_into_is_out_of_turned_round(found: Package, start: str) -> None:
    begun = found.bundles.get(start) or stranger(start)
    edges = Edges(found, found.channels.values(), begun)
    everyone = {**found.bundles, start: begun}
    forward = {(name, to) for name in everyone for to in edges.out_of(name)}
    assert {(name, to) for to in found.bundles for name in edges.into(to)} == forward


@given(_packages(), _names)
def test_olm_v0_takes_what_is_nearest_to_the_head_of_the_chain(found: Package, start_name: str) -> None:
    channel = found.channels[found.default_channel]
    order = sorted_channel(channel)
    start = found.bundles.get(start_name) or stranger(start_name)
    way = upgrades(found, start, None, channel.name).v0
    at, seen = start, {start.name}
    for step in way.steps:
        fits = [name for name in order.chain if _is_edge(found, at, channel.entries[name])]
        assert step.to == fits[0]
        assert step.to not in order.skipped
        at = found.bundles[step.to]
        seen.add(at.name)
    fits = [name for name in order.chain if _is_edge(found, at, channel.entries[name])]
    assert not fits or fits[0] in seen
    assert (way.reason is not None) == bool(order.broken)


# --- rules, one by one ---


def test_a_deprecated_successor_does_not_win_over_staying() -> None:
    found = line("1.0.0", "1.1.0", deprecated=["1.1.0"])
    answer = ask(found, "1.0.0", "1.1.0")
    assert names(answer.automatic.steps) == []
    assert names(answer.path.steps) == ["1.1.0"]


def test_of_deprecated_and_undeprecated_successors_the_latter_wins() -> None:
    entries = [entry("1.1.0", "1.0.0"), entry("1.2.0", "1.0.0")]
    found = package({"stable": entries}, bundle("1.0.0"), bundle("1.1.0"), bundle("1.2.0", deprecated=True))
    assert names(ask(found, "1.0.0").automatic.steps) == ["1.1.0"]


def test_whoever_has_something_deprecated_leaves_it() -> None:
    found = package({"stable": [entry("1.0.0", "1.1.0")]}, bundle("1.0.0"), bundle("1.1.0", deprecated=True))
    assert names(ask(found, "1.1.0").automatic.steps) == ["1.0.0"]


def test_what_is_in_another_channel_does_not_win_over_a_lower_successor() -> None:
    channels = {"old": [entry("1.0.0", "1.2.0")], "stable": [entry("1.2.0")]}
    found = package(channels, bundle("1.0.0"), bundle("1.2.0"))
    assert names(ask(found, "1.2.0", channel="old").automatic.steps) == ["1.0.0"]
    assert names(ask(found, "1.2.0", channel="").automatic.steps) == []


def test_a_way_leads_through_a_deprecated_bundle() -> None:
    assert names(ask(line("1.0.0", "1.1.0", "1.2.0", deprecated=["1.1.0"]), "1.0.0", "1.2.0").path.steps) == [
        "1.1.0",
        "1.2.0",
    ]


def test_a_lower_successor_does_not_win_over_staying() -> None:
    found = package({"stable": [entry("1.2.1", "1.2.5"), entry("1.2.5")]}, bundle("1.2.1"), bundle("1.2.5"))
    assert names(ask(found, "1.2.5").automatic.steps) == []
    assert names(ask(found, "1.2.5", "1.2.1").path.steps) == ["1.2.1"]
    assert names(ask(found, "1.2.5").v0.steps) == ["1.2.1"]


def test_build_metadata_orders_and_is_not_seen_by_ranges() -> None:
    builds = ["1.0.0", "1.0.0+1", "1.0.0+2"]
    entries = [entry("1.0.0"), entry("1.0.0+1", "1.0.0"), entry("1.0.0+2", "1.0.0+1", skip_range="<1.0.0+2")]
    found = package({"stable": entries}, *map(bundle, builds))
    assert [each.written for each in found.bundles.values()] == builds[::-1]
    assert names(ask(found, "1.0.0").successors) == ["1.0.0+1"]
    assert names(ask(found, "1.0.0", "1.0.0+2").path.steps) == ["1.0.0+1", "1.0.0+2"]


def test_a_range_that_holds_versions_equal_but_for_the_build_reaches_all_of_them() -> None:
    entries = [entry("1.0.0"), entry("1.0.0+1"), entry("1.1.0", skip_range="=1.0.0+7")]
    found = package({"stable": entries}, bundle("1.0.0"), bundle("1.0.0+1"), bundle("1.1.0"))
    assert names(ask(found, "app.v1.0.0").successors) == names(ask(found, "1.0.0+1").successors) == ["1.1.0"]


def test_build_metadata_that_is_no_release_does_not_order() -> None:
    assert order_of(semver.parse("1.0.0+01")) == order_of(semver.parse("1.0.0"))
    assert order_of(semver.parse("1.0.0+9")) < order_of(semver.parse("1.0.0+10")) < order_of(semver.parse("1.0.0+a"))


def test_several_bundles_may_have_the_version_that_is_asked_for() -> None:
    found = package({"stable": []}, bundle("1.0.0+1"), bundle("1.0.0+2"))
    assert len(found.called("1.0.0")) == len(found.called("v1.0.0")) == 2
    assert [each.written for each in found.called("1.0.0+2")] == ["1.0.0+2"]


def test_a_range_that_holds_its_own_version_leads_nowhere() -> None:
    found = package({"stable": [entry("1.0.0", skip_range="<=1.0.0")]}, bundle("1.0.0"))
    assert names(ask(found, "1.0.0").successors) == []


def test_a_range_reaches_what_is_installed_and_in_no_catalog() -> None:
    found = package({"stable": [entry("1.1.0", skip_range=">=1.0.0 <1.1.0")]}, bundle("1.1.0"))
    answer = upgrades(found, stranger("app.v1.0.5", "1.0.5"), found.bundles["app.v1.1.0"], "stable")
    assert names(answer.path.steps) == ["1.1.0"]
    assert not answer.known


def test_across_channels_v1_has_the_edges_of_all() -> None:
    channels = {"a": [entry("1.0.0"), entry("1.1.0", "1.0.0")], "b": [entry("1.1.0"), entry("2.0.0", "1.1.0")]}
    found = package(channels, *map(bundle, ("1.0.0", "1.1.0", "2.0.0")), default="a")
    assert names(ask(found, "1.0.0", "2.0.0", "").path.steps) == ["1.1.0", "2.0.0"]
    alone = ask(found, "1.0.0", "2.0.0", "b")
    assert alone.path.reason is not None
    assert [(each.channel, each.steps) for each in alone.alternatives] == [("", 2)]
    elsewhere = ask(found, "1.1.0", "2.0.0", "a")
    assert elsewhere.path.reason is not None
    assert elsewhere.path.reason.name == "TargetNotInChannel"
    assert [(each.channel, each.steps) for each in elsewhere.alternatives] == [("b", 1)]


@pytest.mark.parametrize(
    ("start", "to", "reason"),
    [
        ("1.0.0", "1.0.0", "Same"),
        ("1.2.0", "1.0.0", "Downgrade"),
        ("0.9.0", "1.0.0", "NothingLeadsToTarget"),
        ("app.v0.1.0", "1.2.0", "UnknownFrom"),
        ("0.9.0", "1.2.0", "NothingLeadsOn"),
    ],
)
def test_there_is_a_reason_why_there_is_no_way(start: str, to: str, reason: str) -> None:
    entries = [entry("1.0.0", "0.8.0"), entry("1.1.0", "1.0.0"), entry("1.2.0", "1.1.0")]
    found = package({"stable": entries}, *map(bundle, ("0.9.0", "1.0.0", "1.1.0", "1.2.0")))
    answer = ask(found, start, to)
    assert answer.path.reason is not None
    assert answer.path.reason.name == reason


def test_a_way_that_ends_too_early_says_how_far_it_gets() -> None:
    entries = [entry("1.0.0"), entry("1.1.0", "1.0.0"), entry("2.0.0", "1.9.0"), entry("1.9.0")]
    found = package({"stable": entries}, *map(bundle, ("1.0.0", "1.1.0", "1.9.0", "2.0.0")))
    answer = ask(found, "1.0.0", "2.0.0")
    assert answer.path.reason is not None
    assert answer.path.reason.name == "NotConnected"
    assert "app.v1.1.0" in answer.path.reason.message
    assert [(each.to, each.steps) for each in answer.alternatives] == [("app.v1.1.0", 1)]


def test_olm_v0_jumps_over_what_is_not_nearest_to_the_head() -> None:
    entries = [entry("1.0.0"), entry("1.1.0", "1.0.0"), entry("1.2.0", "1.1.0", skip_range="<1.2.0")]
    answer = ask(package({"stable": entries}, *map(bundle, ("1.0.0", "1.1.0", "1.2.0"))), "1.0.0", "1.1.0")
    assert names(answer.path.steps) == ["1.1.0"]
    assert answer.v0.reason is not None
    assert answer.v0.reason.name == "JumpsOver"


def test_olm_v0_never_takes_what_is_skipped() -> None:
    # As kubernaut-operator has it: each replaces and skips the one before.
    entries = [entry("1.0.0"), entry("1.1.0", skips=["1.0.0"]), entry("1.2.0", "1.1.0", ["1.1.0"])]
    answer = ask(package({"stable": entries}, *map(bundle, ("1.0.0", "1.1.0", "1.2.0"))), "1.0.0", "1.2.0")
    assert names(answer.path.steps) == ["1.1.0", "1.2.0"]
    assert answer.v0.steps == []
    assert answer.v0.reason is not None
    assert answer.v0.reason.name == "Skipped"
    assert "app.v1.2.0" in answer.v0.reason.message


def test_what_no_parser_takes_for_a_range_is_noted_and_holds_nothing() -> None:
    found = package({"stable": [entry("1.1.0", "1.0.0", skip_range="later")]}, bundle("1.0.0"), bundle("1.1.0"))
    answer = ask(found, "1.0.0", "1.1.0")
    assert [edge.reasons for edge in answer.path.steps] == [("replaces",)]
    assert answer.bad_ranges == ["later"]


# --- what it costs ---


def test_a_package_of_30_000_entries_is_refused_by_the_bound() -> None:
    entries = [
        {
            "metadata": {"name": f"r.app.{at}"},
            "spec": {"revision": f"app.v{at}.0.0", "version": f"{at}.0.0"},
            "status": {"channels": [{"name": "stable", "replaces": f"app.v{(at + 1) % 30_000}.0.0"}]},
        }
        for at in range(30_000)
    ]
    with pytest.raises(TooMuchError, match=str(MOST_BUNDLES)):
        read({"spec": {"packageName": "app"}}, entries)
    with pytest.raises(TooMuchError, match="skips"):
        check_size(1, 1_000_000)


def test_every_version_in_every_range_ends_at_the_bound_of_edges() -> None:
    versions = [f"1.{at}.0" for at in range(MOST_BUNDLES)]
    entries = [entry(each, skip_range=">=0.0.0 !=7.0.0") for each in versions[1:]]
    found = package({"stable": [*entries, entry(versions[0])]}, *map(bundle, versions))
    edges = Edges(found, found.channels.values())
    with pytest.raises(TooMuchError, match="edges"):
        _ = [edges.into(f"app.v{each}") for each in versions]


def test_a_cycle_ends() -> None:
    entries = [entry("1.0.0", "1.2.0"), entry("1.1.0", "1.0.0"), entry("1.2.0", "1.1.0")]
    found = package({"stable": entries}, *map(bundle, ("1.0.0", "1.1.0", "1.2.0")))
    answer = ask(found, "1.0.0", "1.2.0")
    assert names(answer.path.steps) == ["1.1.0", "1.2.0"]
    assert answer.v0.reason is not None
    assert answer.v0.reason.name == "ChannelBroken"
