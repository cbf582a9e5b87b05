"""How one gets from one bundle to another: the way that OLM v1 can be made to go, what v0 and v1 do by themselves, and
why there is no way.

Rules: v1 operator-controller, internal/operator-controller/catalogmetadata (filter/successors.go, compare/compare.go)
and internal/operator-controller/resolve/catalog.go; v0 operator-lifecycle-manager, pkg/controller/registry/resolver/
resolver.go. Not looked at, for no catalog says it: what else is installed, dependencies, `olm.deprecated` properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cacheserver.query.edges import Edge, Edges, Order, sorted_channel
from cacheserver.query.package import Bundle, Package
from cacheserver.slotted import slotted


@slotted(frozen=True)
class Reason:
    """Why there is no way. name: for programs; docs/finding.md lists them."""

    name: str
    message: str


@slotted(frozen=True)
class Way:
    """Steps, in order; reason: why they do not lead to what was asked for."""

    steps: Sequence[Edge] = ()
    reason: Reason | None = None


@slotted(frozen=True)
class Alternative:
    """What works instead: the channel (empty: any), the target, and how many steps that takes."""

    channel: str
    to: str
    steps: int


@slotted(frozen=True)
class Upgrades:
    """The answer. start: what is installed; known: whether the package has it.

    path: of v1, by pinning versions; automatic: what v1 does unpinned until it stays; successors: best first. v0: what
    its subscription to v0_channel does. Without a target the ways have no reason, and path is empty.
    """

    start: Bundle
    known: bool
    to: Bundle | None
    successors: Sequence[Edge]
    path: Way
    automatic: Way
    v0_channel: str
    v0: Way
    alternatives: Sequence[Alternative]
    bad_ranges: Sequence[str]


def upgrades(package: Package, start: Bundle, to: Bundle | None, channel: str = "") -> Upgrades:
    """start: may be none of the package. to: one of its bundles. channel: one of its channels; empty: v1 takes edges of
    all of them, v0 follows the default one. Raises: TooMuchError."""
    known = start.name in package.bundles
    scope = [package.channels[channel]] if channel else list(package.channels.values())
    edges = Edges(package, scope, start)
    followed = channel or package.default_channel
    path, automatic, v0, others = Way(), _automatic(edges, start), Way(), []
    if followed in package.channels:
        followed_edges = edges if channel else Edges(package, [package.channels[followed]], start)
        v0 = _v0(followed_edges, start, to, channel=followed)
    if to is not None:
        path = _forced(edges, start, to, channel)
        if path.reason is not None and path.reason.name != "Same":
            others = _alternatives(package, start, to, channel, automatic)
    successors = sorted(edges.out_of(start.name).values(), key=lambda edge: _worth(package, edge.to), reverse=True)
    return Upgrades(start, known, to, successors, path, automatic, followed, v0, others, sorted(edges.bad_ranges))


def _worth(package: Package, name: str) -> tuple[object, ...]:
    """v1, compare.go: what is deprecated last, then the higher version and release. Ours: at last by name."""
    bundle = package.bundles[name]
    return (not bundle.deprecation, bundle.order, name)


def _automatic(edges: Edges, start: Bundle) -> Way:
    """v1: the best of the successors and of what is installed, again and again until it stays (successors.go).

    What is in none of the channels does not stay, whatever it may go to (resolve/catalog.go: InAnyChannel).
    """
    package, steps, at = edges.package, list[Edge](), start.name
    while True:
        found = edges.out_of(at)
        best = max(found, key=lambda name: _worth(package, name), default=at)
        stays = any(at in channel.entries for channel in edges.channels)
        if best == at or (stays and _worth(package, best) < _worth(package, at)):
            return Way(steps)
        steps.append(found[best])  # from the second on worth rises with each, so this ends
        at = best


def _forced(edges: Edges, start: Bundle, to: Bundle, channel: str) -> Way:
    """The shortest way; of equally short ones, at each step to the higher version."""
    package = edges.package
    refused = _no_target(package, start, to, channel)
    if refused is not None:
        return Way((), refused)
    nearer = _distances(edges, start.name, to.name)
    if start.name in nearer:
        steps, at = list[Edge](), start.name
        while at != to.name:
            found = edges.out_of(at)
            closer = [name for name in found if nearer.get(name, len(nearer)) == nearer[at] - 1]
            at = max(closer, key=lambda name: (package.bundles[name].order, name))
            steps.append(found[at])
        return Way(steps)
    return Way((), _no_way(edges, start, to))


def _distances(edges: Edges, start: str, to: str) -> Mapping[str, int]:
    """Steps to `to` from whoever is as near as `start`, or from all where `start` is not among them."""
    nearer = {to: 0}
    front = [to]
    while front and start not in nearer:
        behind: list[str] = []
        for name in front:
            for before in edges.into(name):
                if before not in nearer:
                    nearer[before] = nearer[name] + 1
                    behind.append(before)
        front = behind
    return nearer


def _no_target(package: Package, start: Bundle, to: Bundle, channel: str) -> Reason | None:
    if channel and to.name not in package.channels[channel].entries:
        there = [name for name, each in package.channels.items() if to.name in each.entries]
        return Reason("TargetNotInChannel", f"it is in {', '.join(there)}")
    if start.name == to.name:
        return Reason("Same", "it is installed")
    return None


def _no_way(edges: Edges, start: Bundle, to: Bundle) -> Reason:
    """The first that applies."""
    where = "the channel" if len(edges.channels) == 1 else "any channel"
    if start.version is not None and to.order < start.order:
        return Reason("Downgrade", f"the target is older, and no edge of {where} leads there")
    if not any(name in edges.package.bundles for name in edges.into(to.name)):
        return Reason(
            "NothingLeadsToTarget",
            "the target has no replaces, skips or skipRange that a bundle of the package matches",
        )
    on = edges.out_of(start.name)
    if start.name not in edges.package.bundles and not on and not edges.names_it(start.name):
        return Reason("UnknownFrom", "no bundle of that name or version, and no entry names it")
    if not on:
        return Reason("NothingLeadsOn", f"no edge of {where} leads on from it: it is a head, or there is a gap")
    return Reason("NotConnected", f"edges lead on from it, to {_farthest(edges, on)} at most, and none of them further")


def _farthest(edges: Edges, begun: Mapping[str, Edge]) -> str:
    seen, left = set(begun), list(begun)
    while left:
        for name in edges.out_of(left.pop()):
            if name not in seen:
                seen.add(name)
                left.append(name)
    return max(seen, key=lambda name: (edges.package.bundles[name].order, name))


def _alternatives(package: Package, start: Bundle, to: Bundle, channel: str, automatic: Way) -> list[Alternative]:
    """The nearest things that work: the target in another channel, else as far as one gets by itself."""
    found: list[Alternative] = []
    for other in package.channels.values() if channel else ():
        if other.name != channel and to.name in other.entries:
            way = _forced(Edges(package, [other], start), start, to, other.name)
            if way.reason is None:
                found.append(Alternative(other.name, to.name, len(way.steps)))
    if channel and not found:
        way = _forced(Edges(package, package.channels.values(), start), start, to, "")
        if way.reason is None:
            found.append(Alternative("", to.name, len(way.steps)))
    if not found and automatic.steps:
        found.append(Alternative(channel, automatic.steps[-1].to, len(automatic.steps)))
    return sorted(found, key=lambda each: (each.steps, each.channel))


def _v0(edges: Edges, start: Bundle, to: Bundle | None, *, channel: str) -> Way:
    """OLM v0 from the subscription's channel: no choice of the user's. Each step is the candidate that is nearest to
    the head, by its place in the chain and not by its version (resolver.go, sortChannel)."""
    order = sorted_channel(edges.channels[0])
    if order.broken:
        return Way((), Reason("ChannelBroken", f"OLM v0 takes nothing of channel {channel}: {order.broken}"))
    steps, at, seen = list[Edge](), start.name, {start.name}
    while to is None or at != to.name:
        found = edges.out_of(at)
        chosen = next((name for name in order.chain if name in found), "")
        if not chosen or chosen in seen:
            break
        steps.append(found[chosen])
        seen.add(chosen)
        at = chosen
        if to is not None and _passed(order, at, to.name):
            break
    if to is None or (at == to.name and steps):
        return Way(steps)
    reason = _no_target(edges.package, start, to, channel) or _v0_stuck(edges, order, start, at, to)
    return Way(steps, reason)


def _passed(order: Order, at: str, to: str) -> bool:
    """Whether `at` stands nearer to the head than the target does."""
    return to in order.chain and order.chain.index(at) < order.chain.index(to)


def _v0_stuck(edges: Edges, order: Order, start: Bundle, at: str, to: Bundle) -> Reason:
    if to.name in order.skipped:
        return Reason("Skipped", f"the target is skipped by {order.skipped[to.name]}: OLM v0 never chooses it")
    if at in order.chain and at != start.name and _passed(order, at, to.name):
        return Reason("JumpsOver", f"OLM v0 goes to {at}, past the target")
    skipped = sorted(name for name in edges.out_of(at) if name in order.skipped)
    if skipped:
        by = order.skipped[skipped[-1]]
        return Reason("Skipped", f"an edge leads from {at} to {skipped[-1]}, which is skipped by {by}")
    if at != start.name:
        return Reason("NotConnected", f"OLM v0 gets to {at} at most")
    return _no_way(edges, start, to)
