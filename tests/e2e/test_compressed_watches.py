"""Watches with gzip as programs read them that are not ours: each event while the next one is still to come, and an end
that their decoders take for one. kubectl reads them so in test_kubectl.py, through kube-apiserver in
test_kube_apiserver.py, and kubernetes-asyncio in test_informers.py.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest

from tests.fakes.api import BASE, World, api_world

pytestmark = pytest.mark.e2e

_NODE = """
fetch(process.argv[1]).then(async (answer) => {
  if (answer.headers.get("content-encoding") !== "gzip") throw new Error("not compressed");
  for await (const piece of answer.body) process.stdout.write(piece);
});
"""
INFORMER = "CACHESERVER_TEST_INFORMER"


@asynccontextmanager
async def started(command: Sequence[str]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_of(process: Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return await process.stdout.readline()


def written(world: World) -> None:
    for number in range(40):
        world.package(f"p{number:02}", description="words of a package " * 20)


def reader(program: str, url: str) -> Sequence[str]:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"NO {program.upper()} FOUND: its decoder read no watch")
    return [found, "-sSN", "--compressed", url] if program == "curl" else [found, "-e", _NODE, url]


@pytest.mark.parametrize("program", ["curl", "node"])
async def test_a_decoder_gives_out_each_event_at_once_and_takes_the_end_for_one(program: str) -> None:
    async with api_world() as world:
        written(world)
        await world.settled()
        async with started(reader(program, f"{world.url}{BASE}/packages?watch=1")) as process:
            names = [orjson.loads(await line_of(process))["object"]["metadata"]["name"] for _ in range(40)]
            assert names == [f"r.p{number:02}" for number in range(40)]
            for number in range(3):  # alone, so each is a stored block
                world.package("p00", revisions=number)
                assert orjson.loads(await line_of(process))["object"]["status"] == {"revisions": number}
            for number in range(200):
                world.package("p01", description=os.urandom(300).hex(), revisions=number)
            for number in range(200):
                assert orjson.loads(await line_of(process))["object"]["status"]["revisions"] == number
            await world.api.shut_down(grace_s=0.1)
            assert await line_of(process) == b""
            assert await process.wait() == 0


async def test_an_informer_of_client_go_follows_a_compressed_watch() -> None:
    """The program says `watch STATUS uncompressed=true` for each watch that Go unpacked, `synced`, and each change."""
    informer = os.environ.get(INFORMER)
    if not informer:
        pytest.skip(f"NO INFORMER OF CLIENT-GO: {INFORMER} names none")
    async with api_world() as world:
        written(world)
        await world.settled()
        async with started([informer, "-server", world.url]) as process:
            said = [await line_of(process)]
            while said.count(b"synced\n") < 1 or sum(line.startswith(b"added ") for line in said) < 40:
                said.append(await line_of(process))
            while b"watch 200 uncompressed=true\n" not in said:
                said.append(await line_of(process))
            changed = world.package("p00", revisions=1)
            assert await line_of(process) == b"updated team/r.p00 %d\n" % changed
            added = world.package("new")
            assert await line_of(process) == b"added team/r.new %d\n" % added
            gone = world.feed.delete("team", "r.p01")
            assert await line_of(process) == b"deleted team/r.p01 %d\n" % gone
