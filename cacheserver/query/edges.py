"""Upgrade edges of some channels of a package: what leads to an entry, and where an installed bundle may go.

Rules: operator-controller, internal/operator-controller/catalogmetadata/filter/successors.go; the same three edges are
OLM v0's (operator-lifecycle-manager, pkg/controller/registry/resolver/cache/predicates.go). Pure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cacheserver.catalogs import semver
from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.query.package import MOST_EDGES, Bundle, Channel, Package, TooMuchError
from cacheserver.slotted import slotted

REPLACES: Final = "replaces"
SKIPS: Final = "skips"
SKIP_RANGE: Final = "skipRange"
REASONS: Final = (REPLACES, SKIPS, SKIP_RANGE)


@slotted(frozen=True)
class Edge:
    """An upgrade to `to`. reasons: as REASONS orders them; channels: those that have it; ranges: that hold it."""

    to: str
    reasons: tuple[str, ...]
    channels: tuple[str, ...]
    ranges: tuple[str, ...] = ()


class Edges:
    """See the module. One for a question: it counts what it looks at, and stops at MOST_EDGES."""

    def __init__(self, package: Package, channels: Iterable[Channel], installed: Bundle | None = None) -> None:
        """installed: asked about besides the package's bundles; it may be none of them."""
        self.package = package
        self.channels = tuple(channels)
        self.bundles: dict[str, Bundle] = dict(package.bundles)
        if installed is not None:
            self.bundles.setdefault(installed.name, installed)
        versions = {bundle.version.rank: bundle.version for bundle in self.bundles.values() if bundle.version}
        self._ranks = sorted(versions)
        at = {rank: position for position, rank in enumerate(self._ranks)}
        self._at = {name: at[bundle.version.rank] for name, bundle in self.bundles.items() if bundle.version}
        self._holders: dict[int, list[str]] = {}
        for name, position in self._at.items():
            self._holders.setdefault(position, []).append(name)
        self._several = [at for at, names in self._holders.items() if len(names) > 1]
        self._masks: dict[str, int] = {}
        self._named: dict[str, list[tuple[Channel, Entry, str]]] = {}
        self._ranged: dict[str, list[tuple[Channel, Entry]]] = {}
        self.bad_ranges: set[str] = set()
        self._looked_at = 0
        for channel in self.channels:
            for entry in channel.entries.values():
                self._note(channel, entry)

    def _note(self, channel: Channel, entry: Entry) -> None:
        if entry.replaces:
            self._named.setdefault(entry.replaces, []).append((channel, entry, REPLACES))
        for skip in entry.skips:
            self._named.setdefault(skip, []).append((channel, entry, SKIPS))
        if entry.skip_range:
            self._ranged.setdefault(entry.skip_range, []).append((channel, entry))

    def names_it(self, name: str) -> bool:
        """Whether an entry replaces or skips it."""
        return name in self._named

    def out_of(self, name: str) -> dict[str, Edge]:
        """Where an installed `name` may go, by the entry's name; never to itself. Raises: TooMuchError."""
        found: dict[str, _Found] = {}
        self._spend(len(self._ranged))
        for channel, entry, reason in self._named.get(name, ()):
            found.setdefault(entry.name, _Found()).add(reason, channel.name)
        position = self._at.get(name)
        if position is not None:
            for text, places in self._ranged.items():
                if self._mask(text) >> position & 1:
                    self._spend(len(places))
                    for channel, entry in places:
                        found.setdefault(entry.name, _Found()).add(SKIP_RANGE, channel.name, text)
        found.pop(name, None)
        return {to: each.edge(to) for to, each in found.items() if to in self.package.bundles}

    def into(self, name: str) -> set[str]:
        """The bundles, and the installed one, that may go to `name`; never itself. Raises: TooMuchError."""
        found: set[str] = set()
        for channel in self.channels:
            entry = channel.entries.get(name)
            if entry is None:
                continue
            found.update(skip for skip in entry.skips if skip in self.bundles)
            if entry.replaces in self.bundles:
                found.add(entry.replaces)
            if entry.skip_range:
                found.update(self.held(entry.skip_range))
            self._spend(1 + len(entry.skips))
        found.discard(name)
        return found

    def held(self, text: str) -> Iterator[str]:
        """The bundles whose version a range holds, from the lowest up; none for what is no range."""
        mask = self._mask(text)
        while mask:
            lowest = mask & -mask
            self._spend(1)
            yield from self._holders[lowest.bit_length() - 1]
            mask ^= lowest

    def lowest_held(self, text: str, but: str) -> tuple[str, int]:
        """The bundle with the lowest version that a range holds, and how many it holds; `but` is not counted."""
        mask = self._mask(text)
        own = self._at.get(but, -1)
        many = sum(len(names) - 1 for names in self._crowded(mask))
        count = mask.bit_count() + many - (own >= 0 and mask >> own & 1)
        if count == 0:
            return "", 0
        return next(name for name in self.held(text) if name != but), count

    def _crowded(self, mask: int) -> Iterator[list[str]]:
        """Of the versions in a mask those that several bundles have."""
        return (self._holders[at] for at in self._several if mask >> at & 1)

    def _mask(self, text: str) -> int:
        """A bit for each version that there is, set where the range holds it."""
        known = self._masks.get(text)
        if known is None:
            try:
                known = self._of(semver.parse_range(text))
            except ValueError:
                # OLM v0 drops what it cannot parse (source_registry.go); no catalog that is served has any.
                self.bad_ranges.add(text)
                known = 0
            self._masks[text] = known
        return known

    def _of(self, wanted: semver.Range) -> int:
        every, found = (1 << len(self._ranks)) - 1, 0
        for comparators in wanted.alternatives:
            all_of = every
            for sign, version in comparators:
                below = (1 << bisect_left(self._ranks, version.rank)) - 1
                up_to = (1 << bisect_right(self._ranks, version.rank)) - 1
                all_of &= {
                    "<": below,
                    "<=": up_to,
                    ">": every ^ up_to,
                    ">=": every ^ below,
                    "=": up_to ^ below,
                    "!=": every ^ up_to ^ below,
                }[sign]
            found |= all_of
        return found

    def _spend(self, edges: int) -> None:
        self._looked_at += edges
        if self._looked_at > MOST_EDGES:
            raise TooMuchError(f"over {MOST_EDGES} upgrade edges to look at: ask with one channel, or a nearer target")


class _Found:
    """Reasons of one edge, while they are gathered."""

    __slots__ = ("channels", "ranges", "reasons")

    def __init__(self) -> None:
        self.reasons: set[str] = set()
        self.channels: dict[str, None] = {}
        self.ranges: dict[str, None] = {}

    def add(self, reason: str, channel: str, text: str = "") -> None:
        self.reasons.add(reason)
        self.channels[channel] = None
        if text:
            self.ranges[text] = None

    def edge(self, to: str) -> Edge:
        reasons = tuple(reason for reason in REASONS if reason in self.reasons)
        return Edge(to, reasons, tuple(self.channels), tuple(self.ranges))


Chain = tuple[str, ...]


@slotted(frozen=True)
class Order:
    """A channel as OLM v0 walks it. chain: what may be chosen, from the head down. broken: why there is no chain.

    skipped: entry -> one that skips it.
    """

    chain: Chain
    skipped: Mapping[str, str]
    broken: str = ""


def sorted_channel(channel: Channel) -> Order:
    """OLM v0, pkg/controller/registry/resolver/resolver.go, sortChannel: from the one entry that no other replaces or
    skips along `replaces`; who is skipped is walked through and left out, who is beside the chain is no candidate."""
    entries = channel.entries
    skipped = {skip: entry.name for entry in entries.values() for skip in entry.skips if skip in entries}
    followed = {entry.replaces for entry in entries.values()} | skipped.keys()
    heads = [name for name in entries if name not in followed]
    if len(heads) != 1:
        return Order((), skipped, "it has no head" if not heads else f"it has {len(heads)} heads")
    chain, seen, at = [], set[str](), heads[0]
    while at in entries:
        if at in seen:
            return Order((), skipped, "its replaces run in a circle")
        seen.add(at)
        if at not in skipped:
            chain.append(at)
        at = entries[at].replaces
    return Order(tuple(chain), skipped)
