"""Fills values of a draft from the inputs that its package carries.

`inputs.yaml` is a ConfigMap; a line of another YAML file that ends in `# from-input: KEY` gets that key's value:

    replicas: 1 # from-input: replicas

The comment stays, so a changed input is filled in again. Says so in the condition example.com/specialised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from drafts import Drafts, Look, run

GATE = "example.com/specialised"
INPUTS = "inputs.yaml"
# Bounded in each part: a line of a million spaces must not take minutes.
_LINE = re.compile(
    r"^([ ]{0,200}(?:- )?[\w./-]{1,200}:[ ]{1,9})(\S.{0,500}?)([ ]{1,9}# from-input: ([\w.-]{1,253}))$", re.MULTILINE
)
_PLAIN = re.compile(r"[A-Za-z0-9][\w./-]*\Z")


def specialised(files: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The files with their inputs filled in, and the keys that no input gives.

    Raises: YAMLError, RecursionError, ValueError for inputs that cannot be read.
    """
    inputs = (yaml.safe_load(files.get(INPUTS, "")) or {}).get("data") or {}
    if not isinstance(inputs, dict):
        raise ValueError("data must be an object")
    missing: list[str] = []

    def filled(found: re.Match[str]) -> str:
        key = found[4]
        if key not in inputs:
            missing.append(key)
            return found[0]
        value = str(inputs[key])
        return found[1] + (value if _PLAIN.match(value) else json.dumps(value)) + found[3]

    after = {
        path: _LINE.sub(filled, text) if path.endswith((".yaml", ".yml")) and path != INPUTS else text
        for path, text in files.items()
    }
    return after, missing


def program(drafts: Drafts) -> Look:
    """What is done with each draft."""

    async def look(revision: dict[str, Any]) -> None:
        resources = await drafts.resources(revision)
        digest, files = resources["status"]["digest"], resources["spec"].get("resources", {})
        try:
            after, missing = specialised(files)
        except (yaml.YAMLError, RecursionError, ValueError, AttributeError) as exc:
            await drafts.say(revision, digest, "False", "Unreadable", f"{INPUTS}: {str(exc)[:200]}")
            return
        if missing:
            await drafts.say(revision, digest, "False", "NoInput", f"{INPUTS} has no {', '.join(sorted(set(missing)))}")
        elif after != files and revision["spec"]["lifecycle"] == "Draft":
            resources["spec"]["resources"] = after
            await drafts.save(resources)  # its event comes back here, and then nothing is left to be filled in
        else:
            status = "True" if after == files else "False"
            await drafts.say(revision, digest, status, "Specialised" if after == files else "IsProposed", "")

    return look


if __name__ == "__main__":
    run(GATE, program)
