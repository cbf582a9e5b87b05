"""An honest client in a process of its own: GETs and LISTs at an even pace, over connections that it keeps.

`python -m tests.hostile.honest`: a line with the server's place on stdin begins it, another line ends it; then it
prints tests.hostile.arena.Felt.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter, defaultdict
from typing import Any

import aiohttp

from bench.report.figures import latency
from tests.support.server import API

_QUESTIONS = {
    "GET": f"{API}/namespaces/honest/packages/good.app-01",
    "LIST": f"{API}/namespaces/honest/packages",
    "livez": "/livez",
}
_GIVES_UP_S = 10.0


async def _ask(
    session: aiohttp.ClientSession, question: str, every_s: float, took: dict[str, list[float]], failed: Counter[str]
) -> None:
    """On time, whether or not the last one was answered: a slow answer must not hide the next ones."""
    due = time.monotonic()
    asking: set[asyncio.Task[None]] = set()

    async def once() -> None:
        begun = time.perf_counter()
        try:
            async with session.get(_QUESTIONS[question]) as answer:
                await answer.read()
                if answer.status != 200:
                    failed[f"{question} {answer.status}"] += 1
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            failed[f"{question} {type(exc).__name__}"] += 1
        took[question].append(time.perf_counter() - begun)

    try:
        while True:
            asking.add(task := asyncio.create_task(once()))
            task.add_done_callback(asking.discard)
            due += every_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    finally:
        await asyncio.gather(*asking, return_exceptions=True)


async def _measure(place: dict[str, Any]) -> dict[str, Any]:
    took: defaultdict[str, list[float]] = defaultdict(list)
    failed: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=place["ca"]), limit=32)
    headers = {"Authorization": f"Bearer {place['tokens']['reader']}"}
    timeout = aiohttp.ClientTimeout(total=_GIVES_UP_S)
    async with aiohttp.ClientSession(place["url"], headers=headers, connector=connector, timeout=timeout) as session:
        tasks = [
            asyncio.create_task(_ask(session, question, place["every_s"], took, failed)) for question in _QUESTIONS
        ]
        await asyncio.to_thread(sys.stdin.readline)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    found = {question: latency(seconds) for question, seconds in took.items()}
    return {
        "answered": {question: len(seconds) for question, seconds in took.items()},
        "p99_ms": {question: each.p99_ms for question, each in found.items()},
        "most_ms": {question: each.max_ms for question, each in found.items()},
        "failed": dict(failed),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(json.loads(sys.stdin.readline())))))
