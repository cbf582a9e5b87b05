"""Watchers of a channel without HTTP: each follows while it keeps up, and catches up alone when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson

from cacheserver.api.http.reply import Framing
from cacheserver.api.selectors import EVERYTHING, Selection
from cacheserver.api.watching.channel import Batch, Channel
from cacheserver.cache.watchcache import Watch


class Client:
    """takes: whether it keeps up. got: (type, version) of each event in the order they came. alone: batches that it
    had to make for itself."""

    def __init__(self, channel: Channel, watch: Watch, namespace: str = "", selection: Selection = EVERYTHING) -> None:
        self.watch = watch
        self.takes = True
        self.got: list[tuple[str, int]] = []
        self.alone = 0
        self._channel = channel
        self._audience = channel.join(namespace, selection, Framing.NONE)
        self._free = asyncio.Event()

    @property
    def versions(self) -> Sequence[int]:
        return [version for _, version in self.got]

    def deliver(self, batch: Batch) -> bool:
        for line in batch.framed.data.splitlines():
            event = orjson.loads(line)
            self.got.append((event["type"], int(event["object"]["metadata"]["resourceVersion"])))
        return self.takes

    def let_go(self) -> None:
        self._free.set()

    async def run(self) -> None:
        """Until cancelled; leaves its audience then."""
        try:
            while True:
                self._free.clear()
                if self._channel.follow(self, self._audience):
                    try:
                        await self._free.wait()
                    finally:
                        self._channel.leave(self, self._audience)
                elif events := await self.watch.next(timeout_s=1):
                    self.alone += 1
                    self.deliver(await self._channel.batch(self._audience, events))
        finally:
            self._channel.quit(self._audience)

    async def has(self, count: int) -> Sequence[int]:
        """The versions, once there are so many."""
        async with asyncio.timeout(5):
            while len(self.got) < count:
                await asyncio.sleep(0)
        return self.versions
