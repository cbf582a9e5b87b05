"""The model that watches are judged by: etcd's own history of the served packages, and what each watcher should see.

After etcd's tests/robustness: a watch is ordered, unique, reliable and resumable when the events it delivered are
exactly those that the history gives for its selector, in the same order; bookmarkable when nothing older follows a
bookmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cacheserver.etcd.client import Client
from cacheserver.store import PREFIX

Labels = Mapping[str, str]
Match = Callable[[str, str, Labels], bool]
"""(namespace, name, labels) -> selected?"""

SERVED = PREFIX + b"served/packages/"


@dataclass(frozen=True)
class Step:
    """One change of one object, as etcd recorded it."""

    revision: int
    old: dict[str, Any] | None
    new: dict[str, Any] | None


@dataclass(frozen=True)
class Seen:
    """One event as a client sees it."""

    type: str
    revision: int
    manifest: dict[str, Any]


class History:
    """Every change of a package behind `start`, oldest first."""

    def __init__(self, start: int, steps: Sequence[Step]) -> None:
        self.start = start
        self.steps = steps

    @classmethod
    async def read(cls, client: Client, start: int, end: int) -> History:
        """From etcd, which must not have compacted; nothing may have been served at `start`."""
        current: dict[bytes, dict[str, Any]] = {}
        steps: list[Step] = []
        mark = await client.put(PREFIX + b"served/tick", b"")  # something to end on, behind `end`
        async with client.watch(PREFIX + b"served/", start_revision=start + 1) as watch:
            async for batch in watch:
                for event in batch.events:
                    if event.key.startswith(SERVED) and event.mod_revision <= end:
                        new = orjson.loads(event.value) if event.value is not None else None
                        steps.append(Step(event.mod_revision, current.pop(event.key, None), new))
                        if new is not None:
                            current[event.key] = new
                if any(event.mod_revision >= mark for event in batch.events):
                    break
        return cls(start, steps)

    def events(self, match: Match, since: int) -> list[Seen]:
        """What a watch with this selector delivers from `since` on."""
        found: list[Seen] = []
        for step in self.steps:
            was, is_ = _selected(match, step.old), _selected(match, step.new)
            if step.revision <= since or not (was or is_):
                continue
            if is_ and step.new is not None:
                found.append(Seen("MODIFIED" if was else "ADDED", step.revision, _at(step.new, step.revision)))
            elif step.old is not None:
                found.append(Seen("DELETED", step.revision, _at(step.old, step.revision)))
        return found

    def state(self, match: Match, revision: int) -> dict[tuple[str, str], dict[str, Any]]:
        """What a list with this selector holds as of `revision`."""
        current: dict[tuple[str, str], dict[str, Any]] = {}
        for step in self.steps:
            if step.revision > revision:
                break
            if step.new is not None:
                current[_name(step.new)] = _at(step.new, step.revision)
            elif step.old is not None:
                del current[_name(step.old)]
        return {name: manifest for name, manifest in current.items() if _selected(match, manifest)}


def _selected(match: Match, manifest: dict[str, Any] | None) -> bool:
    if manifest is None:
        return False
    return match(*_name(manifest), manifest["metadata"].get("labels", {}))


def _name(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _at(manifest: dict[str, Any], revision: int) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(revision)}}
