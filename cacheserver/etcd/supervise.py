"""Starts a program that does not outlive us: `python supervise.py PARENT_PID PROGRAM ARG...`.

Asks the kernel for SIGKILL at the parent's death, then becomes the program; no process of ours stays between. The
request survives execve (prctl(2), PR_SET_PDEATHSIG). Run by path and isolated, so it imports the standard library only.
On systems without prctl it only becomes the program: a parent killed with SIGKILL leaves it behind there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(program: str, arguments: Sequence[str]) -> list[str]:
    """The argument list that runs `program` tied to this process.

    The kernel's notion of parent is the THREAD that starts it: start it from one that lives as long as it should (the
    event loop's; not a worker of asyncio.to_thread).
    """
    # -I and -S: nothing from the environment or site-packages runs before the program does; it starts sooner too.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), program, *arguments]


def main(arguments: Sequence[str]) -> None:
    """Becomes the program. arguments: PARENT_PID PROGRAM ARG... Exits with a message when the parent is gone."""
    parent, program, *rest = arguments
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - exists for every platform, used on one

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"supervise: prctl: {os.strerror(ctypes.get_errno())}")
        # The parent may have died before the call above; then we have been given to another one already.
        if os.getppid() != int(parent):
            sys.exit("supervise: the parent is gone")
    os.execv(program, [program, *rest])  # noqa: S606 - an argument list of our own, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
