"""The worker process: does the jobs of the pool in workers.py, one at a time. No network, no etcd.

Started as `python -m cacheserver.catalogs.worker [FORMAT]`; frames (frame.py) on stdin and stdout, of which the first
has its caps. Ends at the end of its input, and by the kernel's hand when its parent is gone. What it reads is hostile:
its memory is capped, and whatever kills it costs the parent one job.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import resource
import signal
import sys
from typing import BinaryIO, Final

import orjson

from cacheserver.catalogs.frame import KRM, LENGTH, REGISTRY
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.priority import give_way

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    """Answers jobs until stdin ends. Argument: the format that the first job is expected to be of."""
    _settle_in()
    for expected in sys.argv[1:]:
        importlib.import_module(f"cacheserver.catalogs.{expected.lower()}.worker")
    with os.fdopen(os.dup(0), "rb") as jobs, os.fdopen(os.dup(1), "wb") as answers:
        # Nothing that a library prints may get between the frames.
        os.dup2(2, 1)
        if (first := _receive(jobs)) is None:
            return
        limits = _confined(first)
        while (frame := _receive(jobs)) is not None:
            answer = _answer(frame, limits)
            answers.write(LENGTH.pack(len(answer)) + answer)
            answers.flush()


def _answer(frame: bytes, limits: ParseLimits) -> bytes:
    # Imported now, by the collector's new thresholds, and only what the kind of catalog needs: a fifth of the start.
    if frame.startswith(KRM):
        from cacheserver.catalogs.krm import worker as krm  # noqa: PLC0415

        return krm.answer(frame, limits)
    if frame.startswith(REGISTRY):
        from cacheserver.catalogs.fbc.registry import answers as registry  # noqa: PLC0415

        return registry.answer(frame, limits)
    from cacheserver.catalogs.fbc import worker as fbc  # noqa: PLC0415

    return fbc.answer(frame, limits)


def _confined(frame: bytes) -> ParseLimits:
    """The caps that the pool sends before its first job. Of these, this process keeps to that of its memory itself."""
    memory_bytes, limits = orjson.loads(frame)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    return ParseLimits(**limits)


def _settle_in() -> None:
    give_way()
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


if __name__ == "__main__":
    main()
    os._exit(0)  # the answers are written: taking the interpreter apart would keep a command waiting for 20 ms
