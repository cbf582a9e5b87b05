"""The folder `shared` beside the repository: real catalogs, and what is right for them. Tests that need it are skipped
where it is not there.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SHARED: Final = Path(__file__).parents[3] / "shared"
FBC: Final = SHARED / "data" / "fbc"
COMMUNITY: Final = FBC / "community-v4.20"
NEPHIO: Final = SHARED / "data" / "git" / "nephio-catalog.bundle"
GOLDEN: Final = SHARED / "data" / "golden"
ABSENT: Final = "no folder shared next to the repository"


def rows(table: str) -> Sequence[dict[str, str]]:
    """Of a table below GOLDEN, by their headings; none where it is not there."""
    path = GOLDEN / table
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))
