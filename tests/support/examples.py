"""The unit file and the compose file under examples/, read for the tests that hold and run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = {"systemd": EXAMPLES / "systemd" / "config.yaml", "compose": EXAMPLES / "compose" / "config" / "config.yaml"}


def unit() -> Mapping[str, Sequence[str]]:
    """Every setting of the unit, each time that it is given."""
    found: dict[str, list[str]] = {}
    for line in (EXAMPLES / "systemd" / "cacheserver.service").read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def compose() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((EXAMPLES / "compose" / "compose.yaml").read_text(encoding="utf-8"))
    return found
