"""Work in the background gives way to answers: processes that read catalogs run at a lower priority than the server.

Of the processor, and with it of the disk (ioprio_set(2): what is not set follows the nice value). Knows no process; the
worker (catalogs/worker.py) asks for itself, sources/git/command.py for every git.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

NICE: Final = 3
"""sched(7): half the weight of what serves. With 19, or SCHED_IDLE, a machine that is busy with something else would
leave no time for syncs at all."""


def give_way() -> None:
    """This process, and all that it starts, from now on. Where the system does not let it, things stay as they are."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    if hasattr(os, "sched_setscheduler"):
        # sched(7), SCHED_BATCH: never wakes in front of what runs.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
