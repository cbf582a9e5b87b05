"""The worker process: does the jobs of the pool in workers.py, one at a time. No network, no etcd.

Started as `python -m cacheserver.catalogs.worker LIMITS MEMORY_BYTES`; frames (wire.py) on stdin and stdout. Ends at
the end of its input, and by the kernel's hand when its parent is gone. What it reads is hostile: its memory is capped,
and whatever kills it costs the parent one job.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from cacheserver.catalogs import facts, ignore, krm_pack, krm_wire, project, rules
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.scan import scan
from cacheserver.catalogs.wire import (
    LENGTH,
    Assemble,
    Assembled,
    Job,
    Scan,
    Select,
    decode_job,
    encode_assembled,
    encode_reports,
)
from cacheserver.model import RepositoryKey

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    limits = ParseLimits(**orjson.loads(sys.argv[1]))
    _confine(int(sys.argv[2]))
    with os.fdopen(os.dup(0), "rb") as jobs, os.fdopen(os.dup(1), "wb") as answers:
        # Nothing that a library prints may get between the frames.
        os.dup2(2, 1)
        while (frame := _receive(jobs)) is not None:
            answer = krm_pack.answer(frame, limits) if krm_wire.is_job(frame) else _do(decode_job(frame), limits)
            answers.write(LENGTH.pack(len(answer)) + answer)
            answers.flush()


def _confine(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C reaches the whole process group; the parent decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Documents are trees that reference counting frees; the collector would only walk them (15% of the time).
    gc.set_threshold(200_000, 20, 100)


def _receive(jobs: BinaryIO) -> bytes | None:
    """The next frame; None at the end of input."""
    head = jobs.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return jobs.read(LENGTH.unpack(head)[0])


def _do(job: Job, limits: ParseLimits) -> bytes:
    if isinstance(job, Scan):
        known = _known(job.known) if job.known else frozenset()
        root, scratch = Path(job.root), Path(job.scratch) if job.write_blobs else None
        return encode_reports([scan(part, root, known, scratch, limits) for part in job.parts])
    if isinstance(job, Assemble):
        return encode_assembled(_assemble(job))
    return orjson.dumps(_select(job))


@lru_cache(maxsize=4)
def _known(path: str) -> frozenset[bytes]:
    """The digests in the file; it is written once, before its first job."""
    digests = Path(path).read_bytes()
    return frozenset(digests[at : at + 32] for at in range(0, len(digests), 32))


def _assemble(job: Assemble) -> list[Assembled]:
    repository = RepositoryKey(job.namespace, job.repository)
    made: list[Assembled] = []
    for group in job.groups:
        placed = [rules.Placed(facts.decode(d.facts), d.path, d.document, d.line) for d in group.documents]
        package, findings = rules.check(group.name, placed)
        made.append(Assembled(group.name, project.records(repository, package) if package else (), findings))
    return made


def _select(job: Select) -> list[str] | str:
    """The files that are kept; a string is the reason why the ignore files cannot be used."""
    try:
        texts = {path: (Path(job.root) / path).read_text("utf-8", "replace") for path in job.ignores}
        return ignore.kept(job.files, texts)
    except (OSError, ValueError) as exc:
        return str(exc)


if __name__ == "__main__":
    main()
