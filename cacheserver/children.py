"""Starts other programs without holding the event loop, and tells of their end. Knows none of them: who starts one ends
it, and closes it. For git, parse workers and the embedded etcd.

uvloop's way forks: the kernel copies the page tables of this process, and the loop stands still until the child has
become the other program: 18 ms at the median in a process of 300 MB, hundreds on a busy machine. subprocess.Popen uses
vfork, which copies nothing; in a thread, since the loop would wait until the child has closed what it is not to get.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Final

_LIMIT: Final = 64 << 10  # asyncio's: bytes of a line, and half of what is read ahead


class Child:
    """A program that runs, or has run. What was to be a pipe is a stream here, anything else None.

    Its end is that of the process alone: what it wrote can still be read, and a child of its own may hold the streams.
    Nothing that is written to stdin after it goes anywhere; see whether it `is_closing`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid: Final = process.pid
        self.returncode: int | None = None
        """How it ended, as subprocess says it: below 0, by which signal. None while it runs."""
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._process = process
        self._ended = asyncio.Event()
        self._ends: list[asyncio.StreamWriter] = []  # of stdout and stderr, which nothing is written to

    async def wait(self) -> int:
        """How it ended, once it has."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self._process.kill()

    def terminate(self) -> None:
        """SIGTERM, unless it has ended."""
        self._process.terminate()

    def close(self) -> None:
        """Lets go of the streams: what was not taken or read by now is lost. It does not end the program."""
        for end in (*self._ends, *filter(None, (self.stdin,))):
            _abort(end.transport)

    async def open(self, ours: Sequence[socket.socket | None], limit: int) -> None:
        """Begins to look for its end, and makes streams of our ends of stdin, stdout and stderr. For `start`."""
        _look_for_the_end(self._process, self._over)
        streams: list[asyncio.StreamReader | None] = []
        for number, end in enumerate(ours):
            reader = None
            if end is not None:
                reader, writer = await asyncio.open_unix_connection(sock=end, limit=limit)
                if number == 0:
                    self.stdin = writer
                else:
                    self._ends.append(writer)
            streams.append(reader)
        _, self.stdout, self.stderr = streams

    def _over(self, code: int) -> None:
        self.returncode = code
        if self.stdin is not None:
            _abort(self.stdin.transport)  # whoever waits for it to take more waits no longer
        self._ended.set()


async def start(
    *arguments: str | Path,
    stdin: int | None = PIPE,
    stdout: int | None = PIPE,
    stderr: int | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
    limit: int = _LIMIT,
    here: bool = False,
) -> Child:
    """A running program. Who is cancelled meanwhile leaves none behind. `close` it once it has ended.

    stdin, stdout, stderr, None for ours: as subprocess has them. limit: as asyncio.create_subprocess_exec. here: from
    the thread of the loop, for a program that is to end with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
    Raises: OSError.
    """
    with ExitStack() as theirs:
        ours: list[socket.socket | None] = []
        given: list[int | None] = []
        for wish in (stdin, stdout, stderr):
            # Sockets, as uvloop has them: asyncio's streams own them, on every loop, and they hold three times as much.
            mine, its = socket.socketpair() if wish == PIPE else (None, None)
            ours.append(mine)
            given.append(wish if its is None else theirs.enter_context(its).fileno())

        def spawn() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                arguments, stdin=given[0], stdout=given[1], stderr=given[2], env=environment, cwd=directory,
                pass_fds=pass_fds, start_new_session=new_session,
            )  # fmt: skip

        try:
            child = Child(spawn() if here else await _in_a_thread(spawn))
        except BaseException:
            _close(ours)
            raise
    return await _opened(child, ours, limit)


async def adopt(process: subprocess.Popen[bytes], ours: Sequence[socket.socket]) -> Child:
    """A program that was started before there was a loop, with sockets for its stdin and stdout, and our ends of them.

    Raises: OSError; then the program is ended.
    """
    return await _opened(Child(process), ours, _LIMIT)


async def _opened(child: Child, ours: Sequence[socket.socket | None], limit: int) -> Child:
    try:
        await child.open((*ours, None)[:3], limit)
    except BaseException:
        child.kill()
        child.close()
        _close(ours)
        await asyncio.shield(child.wait())
        raise
    return child


def _abort(end: asyncio.WriteTransport) -> None:
    # One that is closed and has written all fails in abort(): asyncio's has let go of its loop (selector_events.py).
    if not end.is_closing() or end.get_write_buffer_size():
        end.abort()


def _close(ours: Sequence[socket.socket | None]) -> None:
    for end in filter(None, ours):
        end.close()


async def _in_a_thread(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    starting = asyncio.get_running_loop().run_in_executor(None, spawn)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_unwanted)
        while not starting.done():  # a moment, however often we are told to leave: it needs what it was given
            with suppress(asyncio.CancelledError):
                await asyncio.wait((starting,))
        raise


def _unwanted(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        with starting.result() as process:  # which waits for its end; that is SIGKILL's
            process.kill()


def _look_for_the_end(process: subprocess.Popen[bytes], over: Callable[[int], None]) -> None:
    """Calls `over` with the exit status, on the loop."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # another system, a kernel before 5.3, or a sandbox that forbids it
        threading.Thread(target=_wait, args=(process, loop, over), daemon=True).start()
        return

    def look() -> None:
        code = process.poll()
        if code is not None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            over(code)

    loop.add_reader(pidfd, look)


def _wait(process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, over: Callable[[int], None]) -> None:
    code = process.wait()
    with suppress(RuntimeError):  # the loop is closed: nobody wants to know
        loop.call_soon_threadsafe(over, code)
