"""A tenant whose Repositories are bombs, against a server that serves others: refused by name, at little cost."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from tests.hostile.arena import TENANT, Arena, Measured
from tests.hostile.conftest import LEAST_S, WHOLE, whole_only
from tests.hostile.judge import judge
from tests.support import bombs
from tests.support.fbc import bundle
from tests.support.krm import KRMRepository, kptfile
from tests.support.registry import Image, Member, directory, image, layer
from tests.support.server import API

pytestmark = [pytest.mark.hostile, pytest.mark.asyncio(loop_scope="session")]

MIB: Final = 1 << 20
HOLD_S: Final = 8.0 if WHOLE else 2.0
NAMES_A_CAP: Final = re.compile(r"(?i)(more than|at most|over|limit|cap|exceeds|too (many|large|long|deep)|--max)")


@asynccontextmanager
async def attacked(arena: Arena, name: str) -> AsyncIterator[Measured]:
    async with arena.measured(name, least_s=LEAST_S) as measured:
        yield measured
    await judge(arena, measured)


def catalog_image(files: Mapping[str, bytes]) -> Image:
    members = [Member(f"configs/{path}", content) for path, content in files.items()]
    return image(layer(directory("configs/"), *members))


def documents(*found: Mapping[str, Any]) -> bytes:
    return b"\n".join(orjson.dumps(each) for each in found)


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"schema": "olm.package", "name": name, "defaultChannel": "stable", **more}


def _message(said: str) -> str:
    """Of the condition that says most."""
    status = orjson.loads(said)
    told = [each["message"] for each in status.get("conditions", ()) if each["type"] == "Ready"]
    told += [f"{each['reason']}: {each['message']}" for each in status.get("rejected", ())]
    return " | ".join(told)[:400]


# --- git ---

GIT_BOMBS: Final[Mapping[str, Callable[[Path], object]]] = {
    "deep-names": bombs.deep_names,
    "shared-trees": bombs.shared_trees,
    "shared-trees-krm": lambda path: bombs.shared_trees(path, kptfile=True),
    "wide-tree": bombs.wide_tree,
    "delta-bomb": bombs.delta_bomb,
    "zlib-bomb": bombs.zlib_bomb,
    "octopus": bombs.octopus,
    "many-refs": bombs.many_refs,
    "tagged-trees": bombs.tagged_trees,
}
QUICK_GIT: Final = ("deep-names", "delta-bomb")


@pytest.mark.parametrize("name", GIT_BOMBS if WHOLE else QUICK_GIT)
async def test_a_git_repository_that_unpacks_to_much_is_refused_by_name(arena: Arena, name: str) -> None:
    path = arena.git.base / f"{name}.git"
    await asyncio.to_thread(GIT_BOMBS[name], path)
    async with attacked(arena, name):
        arena.repository(name, path)
        await arena.judged(name, within_s=150)
        said, ready = arena.said(name), arena.ready(name)
        arena.remove(name)
    print(ready, _message(said))
    assert ready[0] == "True" or NAMES_A_CAP.search(said), said[:2000]
    if name in QUICK_GIT:
        assert ready[0] == "False"


# --- images ---

IMAGE_BOMBS: Final[Mapping[str, Callable[[], Image]]] = {
    "long-names": bombs.long_names,
    "long-links": bombs.long_links,
    "pax-records": bombs.many_pax_records,
    "dense-config": bombs.dense_config,
    "zeros": bombs.zeros,
    "braces": lambda: catalog_image({"catalog.json": b"{}" * 8_000_000}),
    "open-braces": lambda: catalog_image({"catalog.json": b'{"a":' * 3_000_000}),
    "half-strings": lambda: catalog_image({"catalog.json": b'{"schema":"olm.package","name":"x}{' * 300_000}),
    "channels": lambda: catalog_image({"catalog.json": _channels(30_000)}),
    "names-of-a-megabyte": lambda: catalog_image({"catalog.json": documents(package("n" * MIB))}),
}
QUICK_IMAGES: Final = ("long-names", "braces", "channels")


def _channels(count: int) -> bytes:
    """A good package but for the number of its channels."""
    entry = [{"name": "much.v1.0.0"}]
    channels = ({"schema": "olm.channel", "package": "much", "name": f"c{at}", "entries": entry} for at in range(count))
    return documents(package("much", defaultChannel="c0"), *channels, bundle("much", "1.0.0"))


@pytest.mark.parametrize("name", IMAGE_BOMBS if WHOLE else QUICK_IMAGES)
async def test_an_image_that_takes_much_to_read_is_refused_by_name(arena: Arena, name: str) -> None:
    made = await asyncio.to_thread(IMAGE_BOMBS[name])
    async with attacked(arena, name):
        await arena.image(name, made)
        await arena.judged(name, within_s=150)
        said, ready = arena.said(name), arena.ready(name)
        arena.remove(name)
    print(ready, _message(said))
    assert ready == ("True", "Synced") or ready[0] == "False"


@whole_only
async def test_many_fetched_trees_do_not_wait_on_disk_together(arena: Arena) -> None:
    """40 repositories of 8 MiB each, all at once."""
    noise = os.urandom(MIB)
    for at in range(40):
        files = {f"{part}.bin": noise for part in range(8)} | {"app/catalog.yaml": _app(f"app{at}")}
        await arena.registry.push(catalog_image(files), f"{TENANT}/tree-{at}", "v1")
    async with attacked(arena, "40 trees at once"):
        for at in range(40):
            await arena.image(f"tree-{at}", catalog_image({"app/catalog.yaml": _app(f"app{at}")}))
        for at in range(40):
            await arena.judged(f"tree-{at}", within_s=120)
            arena.remove(f"tree-{at}")


def _app(name: str, version: str = "1.0.0", text: str = "") -> bytes:
    channel = {"schema": "olm.channel", "package": name, "name": "stable", "entries": [{"name": f"{name}.v{version}"}]}
    return documents(package(name), channel, bundle(name, version, text))


# --- content ---


@whole_only
async def test_thousands_of_contents_and_a_tenants_share_of_the_store(arena: Arena) -> None:
    """Every look at the source brings 16 MiB that zstd cannot press; the store's share of a tenant ends it by name."""
    async with attacked(arena, "filling the store"):
        for turn in range(12):
            await arena.image("filler", await asyncio.to_thread(_noisy, turn))
            await arena.judged("filler", within_s=120)
            if arena.ready("filler")[0] == "False":
                break
        said, ready = arena.said("filler"), arena.ready("filler")
        arena.remove("filler")
    print(ready, _message(said))
    assert ready == ("False", "StorageLimit")
    assert "--max-repository-bytes" in said


def _noisy(turn: int) -> Image:
    """500 packages, each with a content of its own that no compression helps."""
    noise = random.Random(turn)
    return catalog_image(
        {f"p{at}/catalog.json": _app(f"p{at}", f"1.{turn}.0", noise.randbytes(16 << 10).hex()) for at in range(500)}
    )


@whole_only
async def test_content_that_expands_is_not_held_for_who_does_not_read_it(arena: Arena) -> None:
    """60 MiB of one byte, which is a few KiB in the store."""
    size = 60 * MIB if WHOLE else 24 * MIB
    path = arena.git.base / "expands.git"
    repository = KRMRepository(path)
    repository.files |= {"pkg/Kptfile": kptfile("pkg"), "pkg/big.yaml": b"# " + b"a" * size}
    repository.save()
    repository.tag("pkg/v1")
    arena.repository("expands", path)
    await arena.judged("expands", within_s=60)
    print(arena.ready("expands"), arena.said("expands")[:400])
    target = f"{API}/namespaces/{TENANT}/packagerevisions/expands.pkg.v1/content"
    for accept in ("application/x-tar", "application/json", "application/gzip"):
        async with attacked(arena, f"content of {size >> 20} MiB as {accept}"):
            told = await arena.attack(
                "stalled_readers", user="tenant", target=target, readers=16, accept=accept, hold_s=HOLD_S
            )
        print(told)
    arena.remove("expands")
