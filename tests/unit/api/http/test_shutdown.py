"""The end of a server whose clients are all still there: it is quiet, however the ends of watches and of waits fall."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

from tests.fakes.api import api_world


async def test_watches_that_end_as_the_listener_gives_them_up_leave_no_line_of_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with api_world() as world, AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(world.watch())
        ending = asyncio.gather(world.api.shut_down(grace_s=0.01), world.server.shutdown(0.05))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # every connection waits for its watch now
        # As with thousands of them: one turn of the loop takes so long that the ends of the watches, and of the waits
        # for them, are all due in the next one.
        due = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < due:
            pass
        await ending
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
