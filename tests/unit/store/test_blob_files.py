"""Files that content is stored from are closed, whoever stops waiting for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any, ClassVar

from cacheserver.model import BlobFile, BlobHead, Digest
from cacheserver.store.blobs import Blobs
from tests.support.waiting import eventually


class Slow(type(Path())):  # type: ignore[misc]  # the class of this system's paths
    """A path whose file is opened when the test says so."""

    asked = threading.Event()
    let = threading.Event()
    files: ClassVar[list[Any]] = []

    def open(self, *arguments: Any, **more: Any) -> Any:
        self.asked.set()
        self.let.wait(10)
        self.files.append(super().open(*arguments, **more))
        return self.files[-1]


async def test_a_file_that_is_being_opened_when_nobody_waits_any_more_is_closed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    nobody: Any = None
    blob = BlobFile(BlobHead(Digest(f"sha256:{'0' * 64}"), 1, "text/plain"), Slow(tmp_path / "blob"), 1)
    putting = asyncio.create_task(Blobs(nobody).put(blob))
    await eventually(Slow.asked.is_set)
    putting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await putting
    Slow.let.set()
    await eventually(lambda: [file.closed for file in Slow.files] == [True])
