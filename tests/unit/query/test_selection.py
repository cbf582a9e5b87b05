"""What is taken of channels: all that is wanted, nothing that need not be, and a sound graph of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cacheserver.catalogs import semver
from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.query.package import Bundle, Channel, Package, order_of
from cacheserver.query.selection import WrongQuestionError, chosen, selected

VERSIONS = ["0.9.0", "1.0.0-rc.1", "1.0.0", "1.0.0+1", "1.1.0", "1.2.0", "2.0.0", "2.1.0"]


def package(channels: Mapping[str, Sequence[Entry]]) -> Package:
    made = [Bundle(version, semver.parse(version), order_of(semver.parse(version)), version) for version in VERSIONS]
    ordered = sorted(made, key=lambda each: each.order, reverse=True)
    found = {name: Channel(name, {entry.name: entry for entry in entries}) for name, entries in channels.items()}
    return Package("app", "FBC", {each.name: each for each in ordered}, found, "stable")


def sound(entries: Mapping[str, Entry]) -> bool:
    """operator-registry, alpha/model/model.go: Channel.Validate."""
    skipped = {skip for entry in entries.values() for skip in entry.skips}
    heads = [name for name in entries if name not in skipped | {entry.replaces for entry in entries.values()}]
    if len(heads) != 1:
        return False
    chain = [heads[0]]
    while (after := entries[chain[-1]].replaces) and after not in skipped:
        if after in chain:
            return False
        if after not in entries:
            break
        chain.append(after)
    return not entries.keys() - set(chain) - skipped


_some = st.sampled_from([*VERSIONS, "0.1.0"])
_entry = st.builds(
    Entry,
    st.sampled_from(VERSIONS),
    st.one_of(st.just(""), _some),
    st.lists(_some, max_size=3).map(tuple),
)


@st.composite
def _channel(draw: st.DrawFn) -> list[Entry]:
    """Mostly sound: whoever is led to stands behind who leads there, whatever their versions are."""
    order = draw(st.permutations(VERSIONS))[: draw(st.integers(1, len(VERSIONS)))]
    entries: list[Entry] = []
    for at, name in enumerate(order):
        below = [*order[at + 1 :], "0.1.0"]
        skips = tuple(draw(st.lists(st.sampled_from(below), max_size=3, unique=True)))
        entries.append(Entry(name, draw(st.sampled_from(["", *below])), skips))
    return entries


@given(st.one_of(_channel(), st.lists(_entry, min_size=1, max_size=8, unique_by=lambda each: each.name)), _some)
def test_a_sound_channel_stays_sound_and_nothing_wanted_is_missing(entries: list[Entry], start: str) -> None:
    assume(sound({entry.name: entry for entry in entries}) and start in VERSIONS)
    found = package({"stable": entries})
    begin = found.bundles[start]
    kept = selected(found, "stable", begin).get("stable", set())
    wanted = {entry.name for entry in entries if found.bundles[entry.name].order >= begin.order}
    assert wanted <= kept
    assert bool(kept) is bool(wanted)
    assert not kept or sound({name: found.channels["stable"].entries[name] for name in kept})


def line(*versions: str) -> list[Entry]:
    """Each replaces the one before."""
    return [Entry(version, versions[at - 1] if at else "") for at, version in enumerate(versions)]


@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        (line("0.9.0", "1.0.0", "1.1.0", "2.0.0"), {"1.1.0", "2.0.0"}),
        # What a lower version stands between, and the head, whatever its version is.
        (line("1.2.0", "1.0.0", "2.0.0"), {"1.2.0", "1.0.0", "2.0.0"}),
        (line("2.0.0", "1.0.0"), {"2.0.0", "1.0.0"}),
        # Who skips what is wanted.
        ([Entry("1.0.0", "0.9.0", ("1.2.0",)), Entry("1.2.0"), Entry("0.9.0")], {"1.0.0", "1.2.0"}),
        # A circle that is sound as long as who skips it is there.
        (
            [Entry("1.2.0", "1.1.0"), Entry("1.1.0", "1.1.0"), Entry("0.9.0", "", ("0.9.0", "1.1.0"))],
            {"1.2.0", "1.1.0", "0.9.0"},
        ),
        (line("0.9.0", "1.0.0"), set[str]()),
    ],
)
def test_from_a_version_on(entries: list[Entry], kept: AbstractSet[str]) -> None:
    found = package({"stable": entries})
    assert selected(found, "", found.bundles["1.1.0"]) == ({"stable": kept} if kept else {})


def test_one_channel_or_all() -> None:
    found = package({"stable": line("1.0.0", "1.1.0"), "fast": line("2.0.0")})
    assert selected(found, "", None) == {"stable": {"1.0.0", "1.1.0"}, "fast": {"2.0.0"}}
    assert selected(found, "stable", None) == {"stable": {"1.0.0", "1.1.0"}}
    assert selected(found, "", found.bundles["2.0.0"]) == {"fast": {"2.0.0"}}


def test_who_skips_whom_without_end_is_taken_whole() -> None:
    """In the worst order each look finds one more; nobody waits for it."""
    versions = [f"1.{at}.0" for at in range(300)]
    entries = [Entry("9.0.0", "8.0.0", (versions[0],)), Entry("8.0.0")]
    entries += [Entry(version, "", (versions[at + 1],) if at + 1 < 300 else ()) for at, version in enumerate(versions)]
    made = [Bundle(entry.name, semver.parse(entry.name), order_of(semver.parse(entry.name))) for entry in entries]
    last = versions[-1]
    bundles = {each.name: each for each in made} | {
        last: Bundle(last, semver.parse("9.9.9"), order_of(semver.parse("9.9.9")))
    }
    found = Package("app", "FBC", bundles, {"stable": Channel("stable", {entry.name: entry for entry in entries})})
    assert len(selected(found, "stable", bundles[last])["stable"]) == len(entries)


@pytest.mark.parametrize(
    ("channel", "start", "said"), [("slow", "", "stable"), ("", "7.0.0", "2.1.0"), ("", "1.0.0", "several")]
)
def test_what_is_not_there_is_named(channel: str, start: str, said: str) -> None:
    found = package({"stable": line("1.0.0")})
    if said == "several":
        twice = {name: Bundle(name, semver.parse("1.0.0"), ((), ()), "1.0.0") for name in ("a", "b")}
        found = Package("app", "FBC", twice, found.channels)
    with pytest.raises(WrongQuestionError, match=said):
        chosen(found, channel, start)
