"""`cacheserver` and `python -m cacheserver`. Imports nothing until it is run."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    from cacheserver.cli import main as run  # noqa: PLC0415  a child that imports the main module must not load the server

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
