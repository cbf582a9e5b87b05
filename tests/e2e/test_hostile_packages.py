"""Packages and objects made to harm the server, or whoever checks them out of git: refused by name, with nothing
written, in bounded memory, while others are served."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cacheserver.etcd.client import Client, prefix_end
from cacheserver.store.keys import CLAIM, INGEST, PREFIX, TICK
from tests.conftest import StartEtcd
from tests.e2e.conftest import StartServer
from tests.support import invariants, left
from tests.support.arena import manifests
from tests.support.authors import BASE, MERGE
from tests.support.gitserver import GitRepository
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

MB = 1 << 20
NAME = "edge.p.w1"
FILES = f"packagerevisionresources/{NAME}"
OURS = (TICK, PREFIX + b"served/repositories/")
"""What the server writes by itself, now and then."""
KPTFILE = "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata:\n  name: p\n"
Body = Callable[[], Any]


def files(**more: str) -> dict[str, Any]:
    return {"spec": {"resources": {"Kptfile": KPTFILE, **more}}}


def kptfile(text: str) -> dict[str, Any]:
    return {"spec": {"resources": {"Kptfile": KPTFILE + text}}}


def metadata(**fields: dict[str, str]) -> dict[str, Any]:
    return {"metadata": fields}


def laughs() -> str:
    """Each list holds the one above it ten times (CWE-776)."""
    rows = ["  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "info:\n" + "\n".join(rows) + "\n"


def name_laughs() -> str:
    return "".join(f"\ninfo{n}: " + "{a: " * 3000 + "}" * 3000 for n in range(3))


ATTACKS: dict[str, tuple[str, Body, int, str]] = {
    "10,000 files": (FILES, lambda: files(**{f"f{n}": "x" for n in range(10_000)}), 422, "--max-package-files"),
    "aliases": (FILES, lambda: kptfile(laughs()), 422, "spec[Kptfile]"),
    "depth": (FILES, lambda: kptfile(f"info: {'[' * 100_000}{']' * 100_000}\n"), 422, "spec[Kptfile]"),
    "depth by maps": (FILES, lambda: kptfile(name_laughs()), 422, "spec[Kptfile]"),
    "width": (FILES, lambda: kptfile("info:\n  keywords: [" + "[]," * 1_000_000 + "]\n"), 422, "spec[Kptfile]"),
    "a Kptfile of 20 MB": (
        FILES,
        lambda: kptfile("# " + "x" * 80 + "\n" + "# x\n" * 5_000_000),
        422,
        "--max-package-bytes",
    ),
    "many paths that leave": (FILES, lambda: files(**{f"{'../' * n}x": "x" for n in range(1, 500)}), 422, "'..'"),
    "a link to git's files": (FILES, lambda: files(**{".git/hooks/post-checkout": "#!/bin/sh"}), 422, ".git"),
    "twins by case": (FILES, lambda: files(**{"a/Kptfile": "x", "A/kptfile": "y"}), 422, "case or Unicode"),
    "twins by form": (FILES, lambda: files(**{"d/\u212b": "x", "d/\u00c5": "y"}), 422, "case or Unicode"),
    "NUL": (FILES, lambda: files(**{"a\0.yaml": "x"}), 422, "control characters"),
    "labels by the megabyte": (
        f"packagerevisions/{NAME}",
        lambda: metadata(labels={f"l{n}": "x" * 60 for n in range(20_000)}),
        422,
        "at most 65536",
    ),
    "annotations by the megabyte": (
        f"packagerevisions/{NAME}",
        lambda: metadata(annotations={"example.com/a": "x" * (2 * MB)}),
        422,
        "at most 65536",
    ),
    "finalizers by the thousand": (
        f"packagerevisions/{NAME}",
        lambda: {"metadata": {"finalizers": [f"example.com/f{n}" for n in range(10_000)]}},
        422,
        "at most 65536",
    ),
    "an object of 4 MB": (f"packagerevisions/{NAME}", lambda: {"spec": {"x": "y" * (4 * MB)}}, 413, "limit"),
    "a body nested too deep": (f"packagerevisions/{NAME}", lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, ""),
}


class World:
    def __init__(self, client: Client, session: aiohttp.ClientSession, pid: int, git: GitRepository, url: str) -> None:
        self.client, self.session, self.pid, self.git, self.url = client, session, pid, git, url

    async def ask(self, method: str, path: str, body: Any, media: str = MERGE) -> tuple[int, str]:
        raw = json.dumps(body).encode() if isinstance(body, dict | list) else body
        if isinstance(raw, bytes):
            raw = io.BytesIO(raw)
        async with self.session.request(
            method, f"{self.url}{BASE}/{path}", data=raw, headers={"Content-Type": media}
        ) as answer:
            return answer.status, await answer.text()

    async def pour(self, *head: str) -> str:
        """A request with a body of 100 MB, as much of it as is taken; what is answered."""
        host = self.url.removeprefix("http://")
        reader, writer = await asyncio.open_connection(*host.split(":"))
        answer = asyncio.create_task(reader.readline())
        try:
            writer.write("\r\n".join((*head, f"Host: {host}", "", "")).encode())
            chunked = "chunked" in head[-1]
            for _ in range(100):
                if answer.done():
                    break
                writer.write((b"%x\r\n" % MB if chunked else b"") + b"x" * MB + (b"\r\n" if chunked else b""))
                await writer.drain()
            return (await answer).decode()
        except ConnectionError:  # it hung up on us in the midst of it
            return answer.result().decode() if answer.done() and not answer.exception() else ""
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def state(self) -> object:
        """All keys and versions of what anybody wrote; and git's refs."""
        found = (await self.client.range(PREFIX, prefix_end(PREFIX), keys_only=True)).key_values
        kept = [(kv.key, kv.mod_revision) for kv in found if not kv.key.startswith((CLAIM, INGEST, *OURS))]
        return kept, invariants.refs(self.git)

    async def pushed(self) -> bool:
        _, said = await self.ask("GET", f"packagerevisions/{NAME}", None)
        conditions = json.loads(said)["status"].get("conditions", [])
        return any(each["type"] == "Pushed" and each["status"] == "True" for each in conditions)

    def begin_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5): VmHWM begins anew

    def peak(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
async def world(start_etcd: StartEtcd, start_server: StartServer, tmp_path: Path) -> AsyncIterator[World]:
    git = GitRepository(tmp_path / "edge.git")
    etcd = await asyncio.to_thread(start_etcd)
    file = manifests(tmp_path / "repository.yaml", {"edge": git.url}, push_after="100ms")
    flags = ("--etcd", etcd.endpoint, "--allow-unsupported-etcd", "--data-dir", str(tmp_path / "data"))
    server = start_server(*flags, "--repositories", str(file))
    async with Client([etcd.endpoint]) as client, aiohttp.ClientSession() as session:
        await client.connect()
        world = World(client, session, server.pid, git, server.url)
        spec = {"repository": "edge", "packageName": "p", "workspaceName": "w1"}
        body = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "metadata": {}, "spec": spec}
        status, said = await world.ask("POST", "packagerevisions", body, "application/json")
        assert status == 201, said
        await eventually(world.pushed, within_s=60)  # nothing is to be written for it any more
        yield world
    await left.gone()  # bodies that were refused before they were read


async def test_what_is_made_to_harm_is_refused_by_name_and_nothing_is_written(world: World) -> None:
    before = await world.state()
    world.begin_peak()
    began = world.peak()
    told: dict[str, str] = {}
    for attack, (path, body, status, named) in ATTACKS.items():
        found, said = await world.ask("PATCH", path, body())
        if found != status or named not in said or len(said) > 64 << 10:
            told[attack] = f"{found} {said[:300]}"
    assert not told, told
    assert await world.state() == before
    assert world.peak() - began < 150 * MB
    assert (await world.ask("PATCH", FILES, files(good="x")))[0] == 200


async def test_a_body_of_100_mb_is_refused_before_it_is_held(world: World) -> None:
    before = await world.state()
    world.begin_peak()
    began = world.peak()

    answers = []
    for path, media in ((FILES, MERGE), (f"packagerevisions/{NAME}/files/big", "application/octet-stream")):
        for length in (f"Content-Length: {100 * MB}", "Transfer-Encoding: chunked"):
            method = "PUT" if "/files/" in path else "PATCH"
            said = await world.pour(f"{method} {BASE}/{path} HTTP/1.1", f"Content-Type: {media}", length)
            answers.append(said[:13])
    # Where it hung up in the midst of a body, the answer may be lost with the connection (RFC 9112, 9.6).
    assert set(answers) <= {"HTTP/1.1 413 ", ""}
    assert any(answers)
    assert await world.state() == before
    assert world.peak() - began < 120 * MB
    assert (await world.ask("PATCH", FILES, files(good="x")))[0] == 200


def copies() -> Iterator[list[dict[str, Any]]]:
    """Patches that make much of little."""
    yield [{"op": "add", "path": "/spec/resources/a", "value": "x" * MB}] + [
        {"op": "copy", "from": "/spec/resources/a", "path": f"/spec/resources/b{n}"} for n in range(900)
    ]
    yield [{"op": "copy", "from": "/spec", "path": f"/spec/resources/c{n}"} for n in range(60)]
    yield [{"op": "test", "path": "/kind", "value": "PackageRevisionResources"}] * 10_001


async def test_patches_that_make_much_of_little_are_refused(world: World) -> None:
    before = await world.state()
    world.begin_peak()
    began = world.peak()
    for patch in copies():
        status, said = await world.ask("PATCH", FILES, patch, "application/json-patch+json")
        assert status in (413, 422), said
    assert await world.state() == before
    assert world.peak() - began < 200 * MB
