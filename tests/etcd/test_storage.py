"""What a tenant may have in etcd: a repository and a namespace are refused by name, before anything is written."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cacheserver.etcd.client import Client, prefix_end
from cacheserver.ingest import Ingest, ServedStatusStore, SyncServices
from cacheserver.ingest.storage import Storage
from cacheserver.model import RepositoryKey
from cacheserver.store.blobs import Blobs
from cacheserver.store.keys import PREFIX
from cacheserver.store.usage import Usages
from tests.etcd.test_life import SOURCE, NotedPace, files
from tests.fakes.source import FakeSource
from tests.support.waiting import eventually
from tests.support.world import World, opened, running

pytestmark = pytest.mark.etcd

KIB = 1 << 10
MIB = 1 << 20


def noisy(seed: int, size: int = 200 * KIB) -> dict[str, bytes]:
    """A catalog of one package with an icon that nothing makes smaller; stored twice, it is in its document too."""
    [(path, catalog)] = files("1.0.0").items()
    data = base64.b64encode(random.Random(seed).randbytes(size))
    icon = b'"defaultChannel":"stable","icon":{"base64data":"%b","mediatype":"image/png"}' % data
    return {path: catalog.replace(b'"defaultChannel":"stable"', icon)}


def _same(source: FakeSource) -> FakeSource:
    return source


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Tenant(World):
    """The repositories of namespace `ns`, under caps that a test chooses."""

    def __init__(self, client: Client, services: SyncServices, home: Path) -> None:
        super().__init__(client, services, home)
        self.clock = Clock()
        self.spec = SOURCE

    def allowed(self, *, repository: int = 1 << 40, namespace: int = 1 << 40) -> Ingest:
        storage = Storage(
            Usages(self.client),
            Blobs(self.client),
            repository_bytes=repository,
            namespace_bytes=namespace,
            now=self.clock,
        )
        return Ingest(replace(self.services, storage=storage), ServedStatusStore(self.store), pace=NotedPace())

    async def used(self, name: str = "repo") -> int:
        ledger = await Usages(self.client).read("ns")
        return ledger.usages[name].at(self.clock.now).total if name in ledger.usages else 0


@pytest.fixture
async def tenant(etcd_client: Client, tmp_path: Path) -> AsyncIterator[Tenant]:
    async with opened(etcd_client, tmp_path, Tenant) as tenant:
        yield tenant


async def test_a_repository_over_its_cap_is_refused_by_name_and_writes_nothing(tenant: Tenant) -> None:
    source = FakeSource(noisy(1))
    ingest = tenant.allowed(repository=100 * KIB)
    ingest.put(tenant.config(), lambda: source)
    async with running(ingest):
        await eventually(lambda: tenant.says("StorageLimit"))
        _, _, message = await tenant.condition()
        assert "repository ns/repo would have " in message
        assert f"at most {100 * KIB} are allowed (--max-repository-bytes)" in message
        assert await tenant.versions() == []
        assert not (await tenant.client.range(PREFIX + b"blob/", prefix_end(PREFIX + b"blob/"), limit=1)).key_values
        source.files = noisy(1, 10 * KIB)
        await eventually(lambda: tenant.says("Synced"))
    assert 20 * KIB < await tenant.used() < 30 * KIB


async def test_a_raised_cap_lets_it_go_on(tenant: Tenant) -> None:
    source = FakeSource(noisy(1))
    refusing = tenant.allowed(repository=100 * KIB)
    refusing.put(tenant.config(), lambda: source)
    async with running(refusing):
        await eventually(lambda: tenant.says("StorageLimit"))
    raised = tenant.allowed(repository=MIB)
    raised.put(tenant.config(), lambda: source)
    async with running(raised):
        await eventually(lambda: tenant.says("Synced"))


async def test_two_repositories_at_once_do_not_both_slip_past_their_namespaces_cap(tenant: Tenant) -> None:
    ingest = tenant.allowed(namespace=600 * KIB)
    for n in range(2):
        source = FakeSource(noisy(n))
        ingest.put(tenant.config(f"r{n}"), partial(_same, source))

    async def judged() -> list[str]:
        return sorted([(await tenant.condition(name=f"r{n}"))[1] for n in range(2)])

    async with running(ingest):
        await eventually(lambda: _is(judged(), ["StorageLimit", "Synced"]))
        refused = "r0" if await tenant.says("StorageLimit", "r0") else "r1"
        assert "namespace ns would have" in (await tenant.condition(name=refused))[2]
        other = "r1" if refused == "r0" else "r0"
        ingest.remove(RepositoryKey("ns", other))
        await eventually(lambda: _is(tenant.versions(other), []))
        assert await tenant.says("StorageLimit", refused), "what went is in etcd until it is collected"
        tenant.clock.now += 5000
        await eventually(lambda: tenant.says("Synced", refused))


async def _is(found: object, wanted: list[str]) -> bool:
    return bool((await found) == wanted)  # type: ignore[misc] # a coroutine


async def test_what_is_replaced_again_and_again_counts_until_it_is_collected(tenant: Tenant) -> None:
    source = FakeSource(noisy(0))
    ingest = tenant.allowed(repository=1800 * KIB)
    ingest.put(tenant.config(interval_s=0.01), lambda: source)
    async with running(ingest):
        await eventually(lambda: tenant.says("Synced"))
        for seed in range(1, 10):
            digest = (await tenant.status())["digest"]
            source.files = noisy(seed)

            async def judged(digest: str = digest) -> bool:
                return (await tenant.status())["digest"] != digest or await tenant.says("StorageLimit")

            await eventually(judged)
            if await tenant.says("StorageLimit"):
                break
        assert seed == 5, "four replaced and one served are 2,000 KiB"
        assert "collected within 75 minutes" in (await tenant.condition())[2]
        tenant.clock.now += 5000
        await eventually(lambda: tenant.says("Synced"))


async def test_content_that_two_refer_to_counts_for_both(tenant: Tenant) -> None:
    ingest = tenant.allowed()
    for name in ("a", "b"):
        source = FakeSource(noisy(1))
        ingest.put(tenant.config(name), partial(_same, source))
    async with running(ingest):
        for name in ("a", "b"):
            await eventually(partial(tenant.says, "Synced", name))
    assert min(await tenant.used("a"), await tenant.used("b")) > 200 * KIB


async def test_a_smaller_catalog_is_taken_also_above_the_cap(tenant: Tenant) -> None:
    source = FakeSource(files("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
    free = tenant.allowed()
    free.put(tenant.config(), lambda: source)
    async with running(free):
        await eventually(lambda: tenant.says("Synced"))
    source.files = {}
    strict = tenant.allowed(repository=1 * KIB)
    strict.put(tenant.config(allow_empty=True), lambda: source)
    async with running(strict):
        await eventually(lambda: _is(tenant.versions(), []))
