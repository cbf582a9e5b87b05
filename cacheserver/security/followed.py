"""A small file that says whom to let in, read again as it changes. One that cannot be used leaves what counted before.

Knows nothing of what is in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from cacheserver import metrics
from cacheserver.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 2.5
"""Ours: two looks have to see the same, so that a token that was taken out is good for 5 s at most."""

FILE_BYTES: Final = 1 << 20
"""Ours: some 10,000 lines of tokens, or 500 certificates."""

T = TypeVar("T")


class FollowedFile(Generic[T]):
    """load() first, then keep run() running; `take` is given each new content as `parse` reads it.

    What changes is taken once two looks saw the same: who writes into the file, rather than moving a new one over it,
    may be half done, and half a line can name another group.
    """

    def __init__(
        self,
        path: Path,
        flag: str,
        parse: Callable[[bytes], T],
        take: Callable[[T], Awaitable[None]],
        *,
        most_bytes: int = FILE_BYTES,
        secret: bool,
    ) -> None:
        """flag: the setting that names it. parse: raises ValueError. secret: others should not be able to read it."""
        self._path = path
        self._flag = flag
        self._parse = parse
        self._take = take
        self._most_bytes = most_bytes
        self._secret = secret
        self._taken = b""  # digests: what is in the file is not kept
        self._seen = b""
        self._failing = ""

    async def load(self) -> None:
        """Raises: ConfigError when the file cannot be used."""
        try:
            await self._use(await asyncio.to_thread(self._read))
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{self._flag} {self._path}: {_reason(exc)}") from None  # the cause may hold a token

    async def run(self) -> None:
        """Follows the file until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Once, now. Never raises for what is wrong with the file."""
        try:
            content, mode = await asyncio.to_thread(self._read)
            digest = hashlib.sha256(content).digest()
            before, self._seen = self._seen, digest
            if digest == self._taken and not self._failing:
                return
            if digest == before:
                await self._use((content, mode))
                log.info("access file read", extra={"setting": self._flag, "path": str(self._path)})
        except (OSError, ValueError) as exc:
            metrics.access_file_loads.labels(self._flag, "failed").inc()
            reason = _reason(exc)
            if self._failing != reason:
                self._failing = reason
                said = {"setting": self._flag, "path": str(self._path), "error": reason}
                log.error("access file cannot be used: what it said before still counts", extra=said)

    async def _use(self, found: tuple[bytes, int]) -> None:
        content, mode = found
        digest = hashlib.sha256(content).digest()
        await self._take(await asyncio.to_thread(self._parse, content))
        self._taken = self._seen = digest
        self._failing = ""
        metrics.access_file_loads.labels(self._flag, "loaded").inc()
        if self._secret and mode & stat.S_IROTH:
            log.warning(
                "every user of this machine may read a file of secrets: chmod o-r",
                extra={"setting": self._flag, "path": str(self._path)},
            )

    def _read(self) -> tuple[bytes, int]:
        """Its content and mode. Raises: OSError, ValueError."""
        # Not blocking: opening a named pipe would wait for a writer, and hold a thread for ever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("is not a regular file")
            if mode & stat.S_IWOTH:
                raise ValueError("every user of this machine may write it, and so let themselves in: chmod o-w")
            content = file.read(self._most_bytes + 1)
        if len(content) > self._most_bytes:
            raise ValueError(f"has more than {self._most_bytes >> 10} KiB")
        return content, mode


def _reason(exc: OSError | ValueError) -> str:
    """Without the path, which is before it."""
    return (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
