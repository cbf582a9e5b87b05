"""The first parse worker of a command that will parse, started before this process imports what the command needs.

Both begin at the same time then, each on a core: a third of the time of a small catalog. For __main__.py; the pool
(catalogs/workers.py) takes it over, and tells it its caps with its first frame. Imports nothing that the command would
not import anyway.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

_PARSING: Final = ("validate", "ingest")
_EXPECTED: Final = "FBC"  # what most catalogs are; of another format, a worker imports what it needs with its first job


class HeadStart:
    """One process that nobody has taken yet, or none. Whoever begins it ends it."""

    def __init__(self, process: subprocess.Popen[bytes] | None = None, ends: Sequence[socket.socket] = ()) -> None:
        self._process = process
        self._ends = tuple(ends)

    def take(self) -> tuple[subprocess.Popen[bytes], Sequence[socket.socket]] | None:
        """The process and our ends of its stdin and stdout, once; from now on its taker ends it."""
        process, self._process = self._process, None
        return None if process is None else (process, self._ends)

    def end(self) -> None:
        """Ends a process that nobody took."""
        if (taken := self.take()) is None:
            return
        process, ends = taken
        for end in ends:
            end.close()
        process.kill()
        process.wait()


def command(*expected: str) -> Sequence[str]:
    """A parse worker's, which is likely to be asked for these formats."""
    # -P: the working directory may be a hostile checkout, and a yaml.py in it must not be what gets imported.
    return (sys.executable, "-P", "-m", "cacheserver.catalogs.worker", *expected)


def begin(argv: Sequence[str]) -> HeadStart:
    """A worker where `argv` names a command that parses; where none can be started, the pool will say so."""
    if not argv or argv[0] not in _PARSING or not {"-h", "--help"}.isdisjoint(argv):
        return HeadStart()
    # Sockets, as children.py has them.
    ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
    try:
        process = subprocess.Popen(command(_EXPECTED), stdin=theirs[0].fileno(), stdout=theirs[1].fileno())
    except OSError:
        for end in ours:
            end.close()
        return HeadStart()
    finally:
        for end in theirs:
            end.close()
    return HeadStart(process, ours)
