"""Fetches one source in a process of its own, and says what came of it and at what cost: for sources that exhaust.

`outcome` starts it: `python -m tests.support.fetching KIND SOURCE SCRATCH ADDRESS_SPACE LIMITS`. What dies of its
limit says so by how it ends; a refusal is what a test wants to see.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from bench.report.figures import memory
from cacheserver.catalogs import ParseLimits, parse
from cacheserver.catalogs.workers import Workers
from cacheserver.config.sources import GitSource, SourceSpec, parse_source
from cacheserver.errors import CacheServerError
from cacheserver.ingest.reading import open_for
from cacheserver.model import Format, RepositoryKey
from cacheserver.sources import Limits

MIB: Final = 1 << 20
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """refusal: the error, empty where there is none; refused: messages of packages that were refused.

    peak_bytes: the most memory that the process had, and `git_peak_bytes` that any of its children had.
    """

    refusal: str
    refused: tuple[str, ...]
    packages: int
    peak_bytes: int
    git_peak_bytes: int


def outcome(
    source: str, kind: Format, scratch: Path, *, limits: Limits | None = None, address_space: int = 2048 * MIB
) -> Outcome:
    """What fetching and parsing `source` comes to. Raises: AssertionError with the process's last words if it died."""
    caps = orjson.dumps(limits or Limits()).decode()
    scratch.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.support.fetching",
        kind.value,
        source,
        str(scratch),
        str(address_space),
        caps,
    ]
    ran = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr.decode()[-1000:]
    return Outcome(**orjson.loads(ran.stdout))


async def _fetch(source: str, kind: Format, scratch: Path, limits: Limits) -> tuple[str, list[str], int]:
    (scratch / "tree").mkdir()
    opened = open_for(_source(source), kind, cache=scratch / "cache", limits=limits)
    try:
        async with Workers(1, ParseLimits()) as workers:
            tree = await opened.fetch(scratch / "tree", _ignore)
            key = RepositoryKey("default", "bomb")
            async with aclosing(tree):
                catalog = await parse(
                    tree, kind, key, workers, scratch=scratch / "parsed", progress=_ignore, write_blobs=False
                )
    except CacheServerError as exc:
        return f"{type(exc).__name__}: {exc}", [], 0
    finally:
        await opened.aclose()
    return "", [finding.message for found in catalog.rejected.values() for finding in found], len(catalog.packages)


def _source(text: str) -> SourceSpec:
    return GitSource(text, None, "") if text.startswith("git://") else parse_source(text, Path())


def _ignore(_what: str, _done: int, _total: int) -> None: ...


def _main() -> None:
    kind, source, scratch, address_space, caps = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(address_space), int(address_space)))
    refusal, refused, packages = asyncio.run(_fetch(source, Format(kind), Path(scratch), Limits(**orjson.loads(caps))))
    # Our own from /proc: ru_maxrss is inherited from whoever started us, the test's process with all it has ever held.
    peak = memory([os.getpid()]).peak
    git_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    told = Outcome(refusal, tuple(refused[:10]), packages, peak, git_peak)
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    _main()
