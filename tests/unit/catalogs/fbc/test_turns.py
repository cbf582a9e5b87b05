"""What a parse takes of the loop at a time, counted in lines run: others are served between any two of its turns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import pytest

from tests.unit.catalogs.conftest import Parse

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

LONGEST_TURN = 2_000
"""Lines of this project's code: about a millisecond, traced by nobody."""


class Turns:
    """The longest turn of the loop that others waited for, in lines of this project's code."""

    longest = 0


@asynccontextmanager
async def counted() -> AsyncIterator[Turns]:
    turns, lines = Turns(), 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if "/cacheserver/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return line

    async def tick() -> None:
        nonlocal lines
        while True:
            turns.longest, lines = max(turns.longest, lines), 0
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    sys.settrace(line)  # of this thread alone, which is the loop's
    try:
        yield turns
    finally:
        sys.settrace(None)
        ticking.cancel()


def documents(count: int) -> list[dict[str, object]]:
    """One package with that many channels."""
    channels: list[dict[str, object]] = [
        {"schema": "olm.channel", "package": "much", "name": f"c{at}", "entries": [{"name": "much.v1.0.0"}]}
        for at in range(count)
    ]
    bundle: dict[str, object] = {
        "schema": "olm.bundle",
        "package": "much",
        "name": "much.v1.0.0",
        "image": "example.com/much@sha256:" + 64 * "a",
        "properties": [{"type": "olm.package", "value": {"packageName": "much", "version": "1.0.0"}}],
    }
    return [{"schema": "olm.package", "name": "much", "defaultChannel": "c0"}, *channels, bundle]


async def test_a_catalog_of_many_documents_takes_the_loop_for_a_moment_at_a_time(parsed: Parse, tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_bytes(b"\n".join(map(orjson.dumps, documents(6_000))))
    async with counted() as turns:
        catalog = await parsed(tmp_path)
    assert {package.name for package in catalog.packages} | catalog.rejected.keys() == {"much"}
    assert turns.longest < LONGEST_TURN


async def test_refused_documents_take_the_loop_for_a_moment_at_a_time(parsed: Parse, tmp_path: Path) -> None:
    nameless = [{"schema": "olm.channel", "package": f"p{at}", "name": "", "entries": []} for at in range(6_000)]
    (tmp_path / "catalog.json").write_bytes(b"\n".join(map(orjson.dumps, nameless)))
    async with counted() as turns:
        catalog = await parsed(tmp_path)
    assert len(catalog.findings) >= 6_000
    assert turns.longest < LONGEST_TURN
