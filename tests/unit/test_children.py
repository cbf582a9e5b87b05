"""Other programs are started without a copy of our memory, spoken with, and seen to end."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest
import uvloop

from cacheserver import children
from cacheserver.sources.git.command import Git, Remote
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

PAGES = 8192

Work = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["uvloop", "asyncio", "a thread for each"])
def on_a_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """As the server runs it, as tests do, and where the system does not tell of ends by a descriptor."""
    if request.param == "a thread for each":
        monkeypatch.delattr(os, "pidfd_open", raising=False)

    def run(work: Work) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(30):
                await work()

        if request.param == "asyncio":
            asyncio.run(in_time())
        else:
            uvloop.run(in_time())

    return run


def test_a_start_copies_none_of_our_memory() -> None:
    """After a fork each page is copied when it is written to next, which counts as a fault."""
    held = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        held.madvise(mmap.MADV_NOHUGEPAGE)

    def write_to_all() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for page in range(PAGES):
            held[page * mmap.PAGESIZE] = 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    async def start() -> None:
        child = await children.start("cat")
        faults = write_to_all()
        await _end(child)
        assert faults < PAGES // 4

    assert write_to_all() >= PAGES
    uvloop.run(start())


def test_one_that_takes_the_last_bytes_after_they_were_closed_off_is_seen_to_end(
    on_a_loop: Callable[[Work], None],
) -> None:
    """asyncio lets go of its loop once what waited behind a close() is written; abort() would look for it."""

    async def say_much() -> None:
        child = await children.start("cat", stdout=DEVNULL)
        assert child.stdin is not None
        child.stdin.write(bytes(8 << 20))
        child.stdin.close()
        assert await child.wait() == 0
        child.close()

    on_a_loop(say_much)


def test_it_is_spoken_with_until_it_ends(on_a_loop: Callable[[Work], None]) -> None:
    async def talk() -> None:
        child = await children.start("cat")
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"hello\n")
        assert await child.stdout.readline() == b"hello\n"
        assert child.returncode is None
        much = os.urandom(3 << 20)
        child.stdin.write(much)
        assert await child.stdout.readexactly(len(much)) == much
        child.stdin.close()
        assert await child.stdout.read() == b""
        assert await child.wait() == 0
        assert child.returncode == 0
        child.close()

    on_a_loop(talk)


def test_how_it_ended_is_told_also_to_who_asks_late_and_to_several(on_a_loop: Callable[[Work], None]) -> None:
    async def end() -> None:
        child = await children.start("sh", "-c", "exit 7")
        assert list(await asyncio.gather(child.wait(), child.wait())) == [7, 7]
        assert await child.wait() == 7
        child.kill()  # of what has ended: nothing
        child.terminate()
        child.close()
        killed = await children.start("cat")
        await _end(killed)
        assert killed.returncode == -signal.SIGKILL
        asked = await children.start("cat")
        asked.terminate()
        assert await asked.wait() == -signal.SIGTERM
        asked.close()

    on_a_loop(end)


def test_what_it_wrote_is_read_behind_its_end(on_a_loop: Callable[[Work], None]) -> None:
    async def read() -> None:
        child = await children.start("sh", "-c", "echo said; echo complained >&2", stderr=PIPE)
        assert await child.wait() == 0
        assert child.stdout is not None
        assert child.stderr is not None
        assert (await child.stdout.read(), await child.stderr.read()) == (b"said\n", b"complained\n")
        child.close()

    on_a_loop(read)


def test_its_end_is_told_though_a_child_of_its_own_holds_the_streams(on_a_loop: Callable[[Work], None]) -> None:
    async def end() -> None:
        child = await children.start("sh", "-c", "sleep 600 & echo $!", new_session=True)
        assert child.stdout is not None
        grandchild = int(await child.stdout.readline())
        assert await child.wait() == 0
        child.close()
        assert await child.stdout.read() == b"", "nobody reads on when it is closed"
        os.killpg(child.pid, signal.SIGKILL)
        assert grandchild != child.pid

    on_a_loop(end)


def test_who_writes_to_one_that_ends_waits_no_longer(on_a_loop: Callable[[Work], None]) -> None:
    async def write() -> None:
        child = await children.start("sh", "-c", "read line; sleep 600 & exit 3", new_session=True)
        assert child.stdin is not None
        child.stdin.write(b"go\n" + bytes(8 << 20))
        with suppress(ConnectionError):
            await child.stdin.drain()
        assert await child.wait() == 3
        assert child.stdin.is_closing()
        child.close()
        os.killpg(child.pid, signal.SIGKILL)

    on_a_loop(write)


@pytest.mark.parametrize("many", [True, False])
def test_a_git_that_ended_before_it_was_told_anything_says_how(
    on_a_loop: Callable[[Work], None], tmp_path: Path, many: bool
) -> None:
    """What is written to it by then goes nowhere, and is no error of its own."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)
            await asyncio.sleep(0)

    async def ask() -> None:
        git = Git(Remote("file:///nowhere"), tmp_path)
        answer = await git.attempt("version", timeout_s=20, stdin=pieces() if many else bytes(8 << 20))
        assert (answer.status, answer.printed[:11]) == (0, b"git version")

    on_a_loop(ask)


def test_environment_directory_descriptors_and_errors_are_its_own(
    on_a_loop: Callable[[Work], None], tmp_path: Path
) -> None:
    async def ask() -> None:
        script = (
            f"pwd; echo $A; echo no >&2; for fd in {handed.fileno()} {kept.fileno()}; do readlink /dev/fd/$fd; done"
        )
        child = await children.start(
            *("/bin/sh", "-c", f"{script}; :"), environment={"A": "a", "PATH": os.environ["PATH"]}, directory=tmp_path,
            stderr=PIPE, pass_fds=[handed.fileno()], stdin=None,
        )  # fmt: skip
        assert child.stdin is None
        assert child.stdout is not None
        assert child.stderr is not None
        assert await child.stdout.read() == f"{tmp_path}\na\n{tmp_path / 'handed'}\n".encode()
        assert await child.stderr.read() == b"no\n"
        assert await child.wait() == 0
        child.close()

    with (tmp_path / "handed").open("w") as handed, (tmp_path / "kept").open("w") as kept:
        os.set_inheritable(kept.fileno(), True)  # of some library that does not care
        on_a_loop(ask)


def test_nothing_is_left_open(on_a_loop: Callable[[Work], None]) -> None:
    held: list[list[Path]] = []

    async def start() -> None:
        for _ in range(3):
            child = await children.start("cat", stderr=PIPE)
            await _end(child)
            with pytest.raises(FileNotFoundError):
                await children.start("/nowhere/program")
            await asyncio.sleep(0)
            await _closed(lambda: len(_open()) <= len(held[0]) if held else True)
            held.append(_open())

    on_a_loop(start)
    assert len(held[0]) == len(held[1]) == len(held[2])


def test_who_is_cancelled_while_it_starts_leaves_none_behind(on_a_loop: Callable[[Work], None]) -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("this system does not tell of processes")
    mark = f"import time; time.sleep(600)  # {os.urandom(8).hex()}"

    async def leave() -> None:
        for turns in range(12):
            starting = asyncio.create_task(children.start(sys.executable, "-c", mark))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            if not starting.cancelled():  # it was there already
                await _end(starting.result())

    on_a_loop(leave)
    assert _running(mark) == []


def test_it_can_be_started_by_the_thread_of_the_loop() -> None:
    async def start() -> None:
        child = await children.start("cat", here=True)
        await _end(child)

    asyncio.run(start())


async def _end(child: children.Child) -> None:
    child.kill()
    await child.wait()
    child.close()


async def _closed(done: Callable[[], bool]) -> None:
    """Transports close what they hold a turn of the loop later."""
    await eventually(done, within_s=20)


def _open() -> list[Path]:
    return list(Path("/dev/fd").iterdir())


def _running(command: str) -> list[int]:
    found = []
    for each in (each for each in Path("/proc").iterdir() if each.name.isdigit()):
        with suppress(OSError):
            if command.encode() in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found
