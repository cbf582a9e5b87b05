"""Numbers and where they come from: latencies, medians, memory and CPU of processes as /proc tells them. Linux only."""

from __future__ import annotations

import math
import os
import statistics
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Latency:
    """Of `count` things, in milliseconds; all 0 when there were none."""

    count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


def latency(seconds: Iterable[float]) -> Latency:
    """Nearest-rank percentiles: every one of them is a value that was measured."""
    ordered = sorted(seconds)
    if not ordered:
        return Latency()
    return Latency(
        len(ordered),
        _rank(ordered, 0.50) * 1e3,
        _rank(ordered, 0.99) * 1e3,
        ordered[-1] * 1e3,
    )


def _rank(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * part // 1) - 1))]


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle; 0.0 for none."""
    return statistics.median(values) if values else 0.0


def exponent(points: Mapping[float, float]) -> float:
    """How y grows with x: the least-squares slope of log y on log x. 0.0 for fewer than two points."""
    placed = [(math.log(x), math.log(y)) for x, y in points.items() if x > 0 and y > 0]
    if len(placed) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in placed], [y for _, y in placed]).slope


def samples() -> array[float]:
    """An empty list of floats at 8 bytes each."""
    return array("d")


def family(pid: int) -> list[int]:
    """`pid` and every descendant alive now. Empty when it is gone."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    if not (_PROC / str(pid)).exists():
        return []
    found = [pid]
    for each in found:
        found.extend(parents.get(each, ()))
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of CPU (user and system) these processes have used so far, ended and waited-for children included.

    In steps of a clock tick, usually 10 ms: measure over a second at least.
    """
    total = 0
    for pid in pids:
        fields = _stat(pid)
        total += sum(map(int, fields[11:15])) if fields else 0
    return total / _TICKS


def machine_cpu_s() -> float:
    """Seconds of CPU that everything on the machine has used, time stolen by its host included (proc_stat(5))."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


@dataclass(frozen=True, slots=True)
class CPU:
    """CPU seconds up to some moment, or between two: this process's, some others', the whole machine's."""

    client_s: float
    server_s: float
    machine_s: float

    @classmethod
    def now(cls, server: Iterable[int]) -> CPU:
        return cls(time.process_time(), cpu_s(server), machine_cpu_s())

    def since(self, before: CPU) -> CPU:
        return CPU(self.client_s - before.client_s, self.server_s - before.server_s, self.machine_s - before.machine_s)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes, now and at most, of a process or the sum over several (shared pages count in each)."""

    rss: int = 0
    peak: int = 0


def memory(pids: Iterable[int]) -> Memory:
    rss = peak = 0
    for pid in pids:
        try:
            status = (_PROC / str(pid) / "status").read_text()
        except OSError:
            continue  # ended meanwhile
        found = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("VmRSS:", "VmHWM:")))
        rss += _kib(found.get("VmRSS", ""))
        peak += _kib(found.get("VmHWM", ""))
    return Memory(rss, peak)


class Peak:
    """The most that a process and its children held at once, as far as looking at them again and again sees it.

    pss: each page shared out among those who hold it (proc_pid_smaps(5)). largest: of one process, at any time.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.pss = self.rss = self.largest = self.processes = 0

    def look(self) -> None:
        pids = family(self._pid)
        held = [memory([pid]) for pid in pids]
        self.processes = max(self.processes, len(pids))
        self.rss = max(self.rss, sum(each.rss for each in held))
        self.largest = max(self.largest, *(each.peak for each in held), 0)
        self.pss = max(self.pss, sum(map(_pss, pids)))


def _pss(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    found = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Pss:"))
    return _kib(found.get("Pss", ""))


def _kib(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) << 10 if text else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from `state` on (proc_pid_stat(5): the command before it may hold anything)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
