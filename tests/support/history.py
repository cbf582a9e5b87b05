"""The model that watches are judged by: etcd's own history of served objects, and what each watcher should see.

Objects are told apart by what clients call them, whatever keys etcd holds them under.

After etcd's tests/robustness: a watch is ordered, unique, reliable and resumable when the events it delivered are
exactly those that the history gives for its selector, in the same order; bookmarkable when nothing older follows a
bookmark.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from cacheserver.etcd.client import Client, prefix_end
from cacheserver.store.keys import PREFIX

Labels = Mapping[str, str]
Match = Callable[[str, str, Labels], bool]
"""(namespace, name, labels) -> selected?"""

SERVED = PREFIX + b"served/"

Name = tuple[str, str, str]
"""(kind, namespace, name)"""


@dataclass(frozen=True)
class Step:
    """One change of one object, as etcd recorded it. unseen: of nothing that is shown, so no watcher is told."""

    revision: int
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    unseen: bool = False


@dataclass(frozen=True)
class Seen:
    """One event as a client sees it."""

    type: str
    revision: int
    manifest: dict[str, Any]


class History:
    """Every change of the objects of some kinds behind `start`, oldest first. base: what was served at `start`."""

    def __init__(self, start: int, base: Mapping[Name, tuple[int, dict[str, Any]]], steps: Sequence[Step]) -> None:
        self.start = start
        self.base = base
        self.steps = steps

    @classmethod
    async def read(cls, client: Client, start: int, end: int, kinds: Collection[str] = ("packages",)) -> History:
        """From etcd, which must not have compacted. kinds: plural resource names."""
        prefixes = tuple(SERVED + kind.encode() + b"/" for kind in kinds)
        held = _Held()
        for prefix in prefixes:
            for kv in (await client.range(prefix, prefix_end(prefix), revision=start)).key_values:
                held.apply(kv.key, kv.value, kv.mod_revision)
        base = held.served()
        steps: list[Step] = []
        mark = await client.put(PREFIX + b"served/tick", b"")  # something to end on, behind `end`
        async with client.watch(PREFIX + b"served/", start_revision=start + 1) as watch:
            async for batch in watch:
                events = [e for e in batch.events if e.key.startswith(prefixes) and e.mod_revision <= end]
                for revision, together in groupby(events, key=lambda event: event.mod_revision):
                    before = held.served()
                    for event in together:
                        held.apply(event.key, event.value, revision)
                    steps += _steps(revision, before, held.served())
                if any(event.mod_revision >= mark for event in batch.events):
                    break
        return cls(start, base, steps)

    def viewed(self, show: Callable[[dict[str, Any]], dict[str, Any]]) -> History:
        """The same of a kind that is made of this one: each object as `show` has it, at the version it has here."""

        def shown(step: Step) -> Step:
            old, new = (show(manifest) if manifest is not None else None for manifest in (step.old, step.new))
            return Step(step.revision, old, new, unseen=old == new)

        base = [(revision, show(manifest)) for revision, manifest in self.base.values()]
        return History(self.start, {_name(held[1]): held for held in base}, list(map(shown, self.steps)))

    def events(self, match: Match, since: int) -> list[Seen]:
        """What a watch with this selector delivers from `since` on."""
        found: list[Seen] = []
        for step in self.steps:
            was, is_ = _selected(match, step.old), _selected(match, step.new)
            if step.revision <= since or step.unseen or not (was or is_):
                continue
            if is_ and step.new is not None:
                found.append(Seen("MODIFIED" if was else "ADDED", step.revision, _at(step.new, step.revision)))
            elif step.old is not None:
                found.append(Seen("DELETED", step.revision, _at(step.old, step.revision)))
        return found

    def state(self, match: Match, revision: int) -> dict[tuple[str, str], dict[str, Any]]:
        """What a list with this selector holds as of `revision`, by namespace and name (of one kind, or of kinds whose
        names differ)."""
        current = {name: _at(manifest, at) for name, (at, manifest) in self.base.items()}
        for step in self.steps:
            if step.revision > revision:
                break
            if step.new is not None:
                current[_name(step.new)] = _at(step.new, step.revision)
            elif step.old is not None:
                del current[_name(step.old)]
        return {name[1:]: manifest for name, manifest in current.items() if _selected(match, manifest)}


class _Held:
    """What etcd's keys hold, and what that means: of several keys with one name the latest counts."""

    def __init__(self) -> None:
        self._keys: dict[bytes, tuple[int, dict[str, Any]]] = {}

    def apply(self, key: bytes, value: bytes | None, revision: int) -> None:
        if value is None:
            self._keys.pop(key, None)
        else:
            self._keys[key] = (revision, orjson.loads(value))

    def served(self) -> dict[Name, tuple[int, dict[str, Any]]]:
        ordered = sorted(self._keys.values(), key=lambda held: held[0])
        return {_name(manifest): (revision, manifest) for revision, manifest in ordered}


def _steps(
    revision: int,
    before: Mapping[Name, tuple[int, dict[str, Any]]],
    after: Mapping[Name, tuple[int, dict[str, Any]]],
) -> list[Step]:
    """What differs, those that went first."""
    gone = [Step(revision, manifest, None) for name, (_, manifest) in before.items() if name not in after]
    return gone + [
        Step(revision, before[name][1] if name in before else None, held[1])
        for name, held in after.items()
        if before.get(name) != held
    ]


def _selected(match: Match, manifest: dict[str, Any] | None) -> bool:
    if manifest is None:
        return False
    return match(*_name(manifest)[1:], manifest["metadata"].get("labels", {}))


def _name(manifest: dict[str, Any]) -> Name:
    return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _at(manifest: dict[str, Any], revision: int) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(revision)}}
