"""Which entries of a package's channels are taken, of one channel or from a version on: for a mirror, and an export.

What is left of a channel stays a sound upgrade graph: one head, and nobody stranded (catalogs/fbc/rules.py). So where
versions do not fall along the chain, what stands between two that are taken is taken too, as operator-registry's own
filter does (alpha/declcfg/filter/mirror-config, filterBundles). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.query.package import Bundle, Channel, Package

_ROUNDS: Final = 64
"""Of looking who is stranded. Real channels take one; a channel that takes more is taken whole."""
SHOWN_NAMES: Final = 20
"""Of a list in a message: of channels, or of bundles with one version."""


class WrongQuestionError(Exception):
    """What was asked names what is not there, or means several things; the message says which there are."""


def selected(package: Package, channel: str, start: Bundle | None) -> Mapping[str, AbstractSet[str]]:
    """Channel -> names of its entries that are taken, of each channel that has any.

    channel: that alone; empty: all. start: the lowest version that is wanted; None: any.
    """
    wanted = [package.channels[channel]] if channel else list(package.channels.values())
    if start is None:
        return {each.name: each.entries.keys() for each in wanted}
    in_range = {name for name, bundle in package.bundles.items() if bundle.order >= start.order}
    return {each.name: kept for each in wanted if (kept := _kept(each, in_range))}


def chosen(package: Package, channel: str, start: str) -> Bundle | None:
    """What `selected` is to start from, as it was asked for; None for no such wish.

    Raises: WrongQuestionError, also for no such channel.
    """
    if channel and channel not in package.channels:
        raise WrongQuestionError(f"no channel of that name; there are {some(package.channels)}")
    found = meant("from", package, start) if start else None
    if start and found is None:
        raise WrongQuestionError(f"`from` means no bundle; there are {some(package.bundles)}")
    return found


def meant(what: str, package: Package, said: str) -> Bundle | None:
    """The bundle that the parameter `what` says; None: none. Raises: WrongQuestionError where it means several."""
    found = package.called(said)
    if len(found) > 1:
        raise WrongQuestionError(
            f"`{what}` means several bundles: {some(bundle.name for bundle in found)}; name one of them"
        )
    return found[0] if found else None


def some(names: Iterable[str]) -> str:
    """The first SHOWN_NAMES, and how many more."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
    return ", ".join(listed[:SHOWN_NAMES]) + more


def _kept(channel: Channel, in_range: AbstractSet[str]) -> AbstractSet[str]:
    """The entries in range, and as many more as make a sound graph of them; none where none is."""
    entries = channel.entries
    kept = {name for name in entries if name in in_range}
    if not kept or len(kept) == len(entries):
        return kept
    walk = _walk(entries)
    if not walk:  # it is not sound, and is not served so
        return kept
    if entries[walk[-1]].replaces in walk:  # in a circle, which is hidden as long as all that skip it are there
        return entries.keys()
    place = {name: at for at, name in enumerate(walk)}
    # The nearest to the head, so that as few as possible are taken with it.
    near = sorted(entries, key=lambda name: place.get(name, len(walk)))
    skipper: dict[str, str] = {}
    for name in near:
        for skip in entries[name].skips:
            skipper.setdefault(skip, name)
    for _ in range(_ROUNDS):
        kept.update(walk[: 1 + max((place[name] for name in kept if name in place), default=0)])
        alone = _stranded(entries, walk, kept)
        if not alone:
            return kept
        kept.update(skipper[name] for name in alone if name in skipper)
    return entries.keys()


def _walk(entries: Mapping[str, Entry]) -> list[str]:
    """From the head down along `replaces`, through who is skipped as well; empty where there is no one head."""
    led_to = {entry.replaces for entry in entries.values()} | {
        skip for entry in entries.values() for skip in entry.skips
    }
    heads = [name for name in entries if name not in led_to]
    found: dict[str, None] = {}
    at = heads[0] if len(heads) == 1 else ""
    while at in entries and at not in found:
        found[at] = None
        at = entries[at].replaces
    return list(found)


def _stranded(entries: Mapping[str, Entry], walk: list[str], kept: AbstractSet[str]) -> set[str]:
    """Those of `kept` that the reference would call so, if there were no others: its walk ends before who is skipped.

    operator-registry, alpha/model/model.go: validateReplacesChain.
    """
    skipped = {skip for name in kept for skip in entries[name].skips}
    reached: set[str] = set()
    for name in walk:
        if name not in kept or (reached and name in skipped):
            break
        reached.add(name)
    return set(kept) - reached - skipped
