"""`cacheserver` and `python -m cacheserver`. Imports nothing until it is run."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    # Modules stay and hold little garbage: by default the collector walks them a hundred times while they are imported,
    # and again at exit. An eighth of the time of a command that has little else to do.
    gc.set_threshold(50_000, 20, 50)
    from cacheserver import headstart  # noqa: PLC0415  a child that imports the main module must not load the server

    begun = headstart.begin(sys.argv[1:])
    try:
        from cacheserver.cli.main import main as run  # noqa: PLC0415  as above

        code = run(sys.argv[1:], begun=begun)
    finally:
        begun.end()
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
