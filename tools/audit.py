"""Says what pip-audit found, and fails on a known fault: `python -m tools.audit FOUND.json`. `make audit` calls it.

What the index could not be asked about is told and fails nothing, for a machine may have a mirror that knows no faults;
pip-audit's own exit code does not tell the two apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def verdict(document: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print, and the exit code: 1 with a fault. document: pip-audit's JSON format."""
    packages = document["dependencies"]
    faults = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no release'}"
        for each in packages
        for fault in each.get("vulns", ())
    ]
    asked = sum("skip_reason" not in each for each in packages)
    lines = [*faults, f"{asked} of {len(packages)} packages audited, {len(faults)} known faults"]
    if asked < len(packages):
        lines.append("NOT AUDITED: the others, of which the index of this machine knows no faults, or nothing")
    return lines, 1 if faults else 0


def main() -> int:
    found = Path(sys.argv[1])
    if not found.exists():
        print("NOT AUDITED: pip-audit cannot be had here, or found nobody to ask; see above")  # noqa: T201
        return 0
    lines, code = verdict(json.loads(found.read_text(encoding="utf-8")))
    print("\n".join(lines))  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
