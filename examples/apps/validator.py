"""Says of each draft whether every container has a limit of memory, in the condition example.com/validated.

With that in spec.readinessGates nothing is approved in which one has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from drafts import Drafts, Look, run

GATE = "example.com/validated"
_SHOWN = 10
"""Of what is wrong; a message has at most 4,096 characters."""
_READ_BYTES = 1 << 20
"""Of one file. Whoever writes packages must not keep this program busy for minutes, nor end it."""


def wrong(files: Mapping[str, str]) -> Iterator[str]:
    """Each container without a limit, and each file that cannot be read."""
    for path, text in sorted(files.items()):
        if not path.endswith((".yaml", ".yml")):
            continue
        if len(text) > _READ_BYTES:
            yield f"{path} is too large to be judged"
            continue
        try:
            documents = [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
        except (yaml.YAMLError, RecursionError, ValueError):
            yield f"{path} is no YAML that can be read"
            continue
        for document in documents:
            spec = _part(_part(_part(document, "spec"), "template"), "spec")
            for container in _list(spec, "containers"):
                if not _part(_part(container, "resources"), "limits").get("memory"):
                    yield f"{path}: {document.get('kind')} container {container.get('name')} has no limit of memory"


def _part(owner: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = owner.get(name)
    return found if isinstance(found, Mapping) else {}


def _list(owner: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = owner.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def program(drafts: Drafts) -> Look:
    """What is done with each draft."""

    async def look(revision: dict[str, Any]) -> None:
        resources = await drafts.resources(revision)
        found = list(wrong(resources["spec"].get("resources", {})))
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        verdict = ("False", "NoLimits", "; ".join(found[:_SHOWN]) + more) if found else ("True", "LimitsAreThere", "")
        # Of what was read, which may be older by now than what there is: the digest says which it was.
        await drafts.say(revision, resources["status"]["digest"], *verdict)

    return look


if __name__ == "__main__":
    run(GATE, program)
