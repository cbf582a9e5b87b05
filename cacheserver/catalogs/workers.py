"""The pool of worker processes: hands out jobs fairly, kills what takes too long, replaces what died."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, field
from types import TracebackType
from typing import Final, Self

import orjson

from cacheserver import children
from cacheserver.catalogs.frame import LENGTH, LONGEST
from cacheserver.catalogs.limits import MIB, ParseLimits
from cacheserver.errors import CatalogError, WorkerCrashedError
from cacheserver.headstart import HeadStart, command
from cacheserver.model import Format
from cacheserver.slotted import slotted

_GRACE_S: Final = 5.0
_PREPARED: Final = 2
_DEFAULT_LIMITS: Final = ParseLimits()


@slotted(eq=False)
class JobQueue:
    """One user of the pool: waits in its own line, so that a large catalog cannot starve a small one."""

    waiting: deque[asyncio.Future[_Worker]] = field(default_factory=deque)


class Workers:
    """`count` processes (0: one a CPU, at most 4), started when there is work and owned until the end of the
    `async with`.

    job_timeout_s: for one job (at most one file, or 4 MiB of a large one): 4 MiB take 0.2 s.
    memory_bytes: address space of one process. The largest document allowed takes about a quarter of the default.
    begun: taken instead of starting the first one.
    """

    def __init__(
        self,
        count: int = 0,
        limits: ParseLimits = _DEFAULT_LIMITS,
        *,
        job_timeout_s: float = 60.0,
        memory_bytes: int = 1024 * MIB,
        begun: HeadStart | None = None,
    ) -> None:
        self.count = count or min(4, os.cpu_count() or 1)
        self.limits = limits
        self._job_timeout_s = job_timeout_s
        self._caps = orjson.dumps((memory_bytes, asdict(limits)))
        self._begun = begun or HeadStart()
        self._wanted = 0  # processes started, or being started
        self._all: set[_Worker] = set()
        self._idle: deque[_Worker] = deque()
        self._lanes: deque[JobQueue] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops every process, also one that works."""
        workers, self._all = list(self._all), set()
        self._idle.clear()
        async with asyncio.TaskGroup() as tasks:
            for worker in workers:
                tasks.create_task(worker.close(), name="stop a parse worker")

    @contextmanager
    def queue(self) -> Iterator[JobQueue]:
        """A place in the rotation for one parse."""
        queue = JobQueue()
        self._lanes.append(queue)
        try:
            yield queue
        finally:
            self._lanes.remove(queue)

    async def prepare(self, expected: Format) -> None:
        """Start processes for jobs that come soon, most likely of that format: they do not wait the 0.2 s then that
        one takes to begin.

        Two at most: a catalog of two files has work for both. Where none can be started, the job will say so.
        """
        while self._wanted < min(self.count, _PREPARED):
            self._wanted += 1
            try:
                self._hand_on(await self._start(expected))
            except CatalogError as exc:
                self._lost_one(exc)
                return
            except BaseException:
                self._wanted -= 1
                raise

    async def run(self, queue: JobQueue, job: bytes, what: str) -> bytes:
        """The worker's answer. Waits for a free worker; the bound on waiting jobs is the caller's.

        what: named in the error, usually a file.
        Raises: WorkerCrashedError when the process died on the job or took longer than allowed; it has been replaced.
        """
        worker = await self._acquire(queue)
        try:
            async with asyncio.timeout(self._job_timeout_s):
                return await worker.ask(job)
        except TimeoutError as exc:
            message = f"{what}: took longer than {self._job_timeout_s:g} s; its worker was stopped"
            raise WorkerCrashedError(message) from exc
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise WorkerCrashedError(f"{what}: its worker died ({await worker.exit_reason()})") from exc
        finally:
            # A cancelled job leaves an answer in the pipe: that worker is of no more use either.
            await asyncio.shield(self._release(worker))

    async def _acquire(self, queue: JobQueue) -> _Worker:
        if self._idle:
            return self._idle.popleft()
        if self._wanted < self.count:
            self._wanted += 1
            try:
                return await self._start()
            except CatalogError as exc:
                self._lost_one(exc)
                raise
            except BaseException:
                self._wanted -= 1
                raise
        turn: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        queue.waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._hand_on(turn.result())
            raise

    async def _release(self, worker: _Worker) -> None:
        if worker.busy:
            self._all.discard(worker)
            await worker.kill()
            try:
                worker = await self._start()
            except CatalogError as exc:
                self._lost_one(exc)
                return
        self._hand_on(worker)

    def _lost_one(self, why: CatalogError) -> None:
        """A worker died and none could be started for it: the pool has one less until somebody needs it.

        Where there is no other, those who wait get an error: nobody would ever hand them a worker.
        """
        self._wanted -= 1
        if self._wanted:
            return
        for queue in self._lanes:
            for turn in queue.waiting:
                if not turn.done():
                    turn.set_exception(CatalogError(str(why)))
            queue.waiting.clear()

    def _hand_on(self, worker: _Worker) -> None:
        """To the next queue that waits, round and round."""
        for _ in range(len(self._lanes)):
            queue = self._lanes[0]
            self._lanes.rotate(-1)
            while queue.waiting:
                turn = queue.waiting.popleft()
                if not turn.done():
                    turn.set_result(worker)
                    return
        self._idle.append(worker)

    async def _start(self, *expected: Format) -> _Worker:
        try:
            if (begun := self._begun.take()) is not None:
                process = await children.adopt(*begun)
            else:
                process = await children.start(*command(*expected))
        except OSError as exc:
            raise CatalogError(f"cannot start a parse worker: {exc}") from exc
        worker = _Worker(process, self._caps)
        self._all.add(worker)
        return worker


class _Worker:
    """One process. busy: it holds a job whose answer has not been read whole."""

    def __init__(self, process: children.Child, caps: bytes) -> None:
        assert process.stdin
        process.stdin.writelines((LENGTH.pack(len(caps)), caps))
        self._process = process
        self.busy = False

    async def ask(self, job: bytes) -> bytes:
        """Raises: IncompleteReadError, ConnectionError when the process is gone."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        self.busy = True
        if stdin.is_closing():  # a write to it would be an error of another kind
            raise ConnectionResetError("it has ended")
        stdin.writelines((LENGTH.pack(len(job)), job))
        await stdin.drain()
        size: int = LENGTH.unpack(await stdout.readexactly(LENGTH.size))[0]
        if size > LONGEST:
            raise ConnectionError("not a frame")
        answer = await stdout.readexactly(size)
        self.busy = False
        return answer

    async def exit_reason(self) -> str:
        """How the process ended: `signal SIGSEGV`, `exit code 1`."""
        try:
            async with asyncio.timeout(_GRACE_S):
                code = await self._process.wait()
        except TimeoutError:
            return "it does not answer"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._ended()

    async def close(self) -> None:
        """Asks by closing its input; a busy one is killed."""
        if self.busy:
            await self.kill()
            return
        assert self._process.stdin
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        await self._ended()

    async def _ended(self) -> None:
        await self._process.wait()
        self._process.close()
