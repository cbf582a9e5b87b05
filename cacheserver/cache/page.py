"""Cuts pages out of a snapshot: what matches, up to a limit, from a mark on. Knows nothing of how it came about."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from cacheserver.cache.snapshot import Entry, Name, Run, Snapshot
from cacheserver.cache.window import Event, Selector
from cacheserver.model import LABEL_REPOSITORY
from cacheserver.slotted import slotted
from cacheserver.turns import Turns

_PUTS, _PUT_COST = 50, 40  # one makes a segment anew: 8 us
_SLICE_COST = 2048  # of a selector, matched before the others are asked for the next turn: 0.4 ms
_MERGED, _MERGE_COST = 256, 8  # entries of several namespaces are put in order in 1.5 us each
_LEAST_COST = 1024  # of what is begun: a list or watch of few objects is work for others before and after it is matched


@slotted(frozen=True)
class Page:
    """One list answer: `runs` in order, all as of `resource_version`.

    next_after: where the next page begins (exclusive), None on the last. remaining: entries behind this page, known
    only without a selector. stale: read while the store was away, so it may be older than it.
    """

    runs: Sequence[Run]
    resource_version: int
    next_after: Name | None = None
    remaining: int | None = None
    stale: bool = False


async def cut_page(
    snapshot: Snapshot,
    namespace: str | None,
    selector: Selector,
    limit: int,
    after: Name | None,
    turns: Turns,
    behind: str = "",
    *,
    ranged: bool,
) -> Page:
    """Cut one page out of a snapshot. Kubernetes: a page with a selector is filled up to the limit.

    ranged: of a kind NAMED_BY_REPOSITORY. turns: whose work this is part of. behind: a second namespace, whose entries
    follow those of the first.
    """
    runs: list[Run] = []
    room = limit or len(snapshot)
    async with aclosing(_matching(snapshot, namespace, selector, after, turns, behind, ranged=ranged)) as matching:
        async for run in matching:
            if len(run.entries) > room:  # at least one more: this page ends here
                if room:
                    runs.append(Run(run.entries[:room], None))
                last = runs[-1].entries[-1].name
                remaining = snapshot.count_after(namespace, last) if selector.everything and not behind else None
                return Page(runs, snapshot.resource_version, last, remaining)
            runs.append(run)
            room -= len(run.entries)
    return Page(runs, snapshot.resource_version)


async def cut_backwards(
    snapshot: Snapshot, namespace: str | None, selector: Selector, limit: int, before: Name | None, turns: Turns
) -> Page:
    """As cut_page, from the last name to the first, whatever their namespaces: of names that are times the newest.

    before: where the page before ended. Of one name the last namespace comes first.
    """
    parts: list[Iterator[Entry]] = []
    for each in snapshot.namespaces() if namespace is None else (namespace,):
        if len(parts) % _PUTS == 0:
            await turns.spend(_PUTS * _PUT_COST)
        bound = "" if before is None else before[1] if each >= before[0] else before[1] + "\0"
        parts.append(snapshot.backwards(each, bound))
    ordered = parts[0] if len(parts) == 1 else heapq.merge(*parts, key=_by_time, reverse=True)
    found: list[Entry] = []
    for count, entry in enumerate(ordered):
        if count % _MERGED == 0:
            await turns.spend(_MERGED * (selector.cost + _MERGE_COST))
        if selector.everything or selector.matches(entry.labels, entry.fields):
            if limit and len(found) == limit:  # at least one more: this page ends here
                return Page([Run(tuple(found), None)], snapshot.resource_version, found[-1].name)
            found.append(entry)
    return Page([Run(tuple(found), None)] if found else [], snapshot.resource_version)


def _by_time(entry: Entry) -> Name:
    namespace, name = entry.name
    return name, namespace


async def rewind(present: Snapshot, events: Sequence[Event], resource_version: int, turns: Turns) -> Snapshot:
    """The state at `resource_version`, of which `events` lead to `present`, oldest first."""
    before: dict[Name, Entry | None] = {}
    for at in range(0, len(events), _SLICE_COST):
        await turns.spend(_SLICE_COST)
        for event in events[at : at + _SLICE_COST]:
            before.setdefault(event.name, event.old)
    past = present.copy()
    for count, (name, entry) in enumerate(before.items()):
        if count % _PUTS == 0:
            await turns.spend(_PUTS * _PUT_COST)
        if entry is None:
            past.remove(name)
        else:
            past.put(entry)
    return past.snapshot(resource_version)


async def _matching(
    snapshot: Snapshot,
    namespace: str | None,
    selector: Selector,
    after: Name | None,
    turns: Turns,
    behind: str,
    *,
    ranged: bool,
) -> AsyncGenerator[Run, None]:
    """Runs of what matches, in order; lets the loop turn between slices, which an immutable snapshot allows."""
    paid, ahead = 0, min(_SLICE_COST, max(len(snapshot) * selector.cost, _LEAST_COST))
    # Names begin with their repository's, so one repository is a range; a repository object is not in such a range.
    repository = selector.required.get("spec.repository") or selector.required.get(LABEL_REPOSITORY)
    prefix = f"{repository}." if ranged and repository else ""
    parts = [snapshot.runs(namespace, after, prefix=prefix)]
    if behind:
        # A mark in the second of them has the first one behind it; one in the first has all of the second before it.
        in_second = after is not None and after[0] == behind
        parts = [*([] if in_second else parts), snapshot.runs(behind, after if in_second else None, prefix=prefix)]
    for run in itertools.chain.from_iterable(parts):
        if selector.everything:
            yield run
            continue
        cost = len(run.entries) * selector.cost
        if paid < cost:  # before the work: of a thousand who pay behind it all have it done in this turn
            await turns.spend(max(cost, ahead))
            paid += max(cost, ahead)
        paid -= cost
        matching = tuple(entry for entry in run.entries if selector.matches(entry.labels, entry.fields))
        if len(matching) == len(run.entries):
            yield run
        elif matching:
            yield Run(matching, None)
