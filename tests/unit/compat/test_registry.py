"""The gRPC registry as its clients meet it: answers, order, codes and words; listeners that open, change and close."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict

from cacheserver import metrics
from cacheserver.compat.registry import calls, loading
from cacheserver.compat.registry import listener as listening
from cacheserver.compat.registry import registry_pb2 as pb
from cacheserver.compat.registry import tools_pb2 as tools
from cacheserver.compat.registry.content import quoted
from cacheserver.compat.registry.door import Registry
from cacheserver.compat.registry.room import CALLS_EACH, HELD_BYTES_EACH, BusyError, Room
from cacheserver.config import Address
from cacheserver.model import RepositoryKey
from tests.fakes.catalogs import Catalogs, InProcess
from tests.support.fbc_documents import Document, bundle, channel, entry, gvk, kettle, manifest, metadata, package
from tests.support.registry_client import Client
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

KEY = RepositoryKey("default", "teashop")
KETTLE = ("kettle.example.com", "v1", "Kettle")


def pot(*versions: str) -> list[Document]:
    names = [f"pot.v{version}" for version in versions]
    entries = [entry(name, before) for name, before in zip(names, ["", *names], strict=False)]
    api = gvk(*KETTLE)
    return [package("pot"), channel("pot", "stable", *entries), *(bundle("pot", version, api) for version in versions)]


NOTES: list[Document] = [
    {"schema": "example.note", "package": "kettle", "text": "of the kettle", "n": 1.5},
    {"schema": "example.note", "package": "cup", "text": "of a package that is not here"},
    {"schema": "example.note", "text": "of none"},
]


class Shop:
    """A registry of one repository, and how to change what it publishes."""

    def __init__(self, catalogs: Catalogs, registry: Registry) -> None:
        self.catalogs = catalogs
        self.registry = registry

    @property
    def address(self) -> Address:
        found = self.registry.address(KEY)
        assert found is not None
        return found

    async def open(self) -> Address:
        await eventually(lambda: self.registry.address(KEY) is not None, within_s=30)
        return self.address

    async def shows(self, *names: str) -> None:
        async def there() -> bool:
            async with Client(self.address) as client:
                return await client.packages() == [*names]

        await eventually(there, within_s=30)


@asynccontextmanager
async def running(catalogs: Catalogs, port: int = 0) -> AsyncIterator[Shop]:
    registry = Registry(catalogs, InProcess(), {KEY: Address("127.0.0.1", port)}, calm_s=0.01)
    task = asyncio.create_task(registry.run())
    try:
        yield Shop(catalogs, registry)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """Kettles and pots."""
    catalogs = Catalogs()
    catalogs.publish(KEY, {"pot": pot("1.0.0", "2.0.0"), "kettle": [*kettle(), NOTES[0]]}, others=NOTES[1:])
    async with running(catalogs) as shop:
        await shop.open()
        yield shop


@pytest.fixture
async def client(shop: Shop) -> AsyncIterator[Client]:
    async with Client(shop.address) as client:
        yield client


def shown(entries: list[pb.ChannelEntry]) -> list[str]:
    return [f"{each.packageName}/{each.channelName}/{each.bundleName} <- {each.replaces}" for each in entries]


# --- what is answered ---


async def test_packages_and_their_channels_are_sorted(client: Client) -> None:
    assert await client.packages() == ["kettle", "pot"]
    assert MessageToDict(await client.package("kettle")) == {
        "name": "kettle",
        "channels": [
            {"name": "alpha", "csvName": "kettle.v1.2.0", "deprecation": {"message": "use stable"}},
            {"name": "stable", "csvName": "kettle.v1.2.0"},
        ],
        "defaultChannelName": "stable",
    }


async def test_bundles_are_listed_by_channel_package_and_name_without_what_the_image_holds(client: Client) -> None:
    found = await client.bundles()
    assert [(each.channelName, each.packageName, each.csvName) for each in found] == [
        ("alpha", "kettle", "kettle.v1.2.0"),
        ("stable", "kettle", "kettle.v1.0.0"),
        ("stable", "kettle", "kettle.v1.1.0"),
        ("stable", "kettle", "kettle.v1.2.0"),
        ("stable", "pot", "pot.v1.0.0"),
        ("stable", "pot", "pot.v2.0.0"),
    ]
    assert {each.csvJson for each in found} == {""}
    assert (found[0].replaces, [*found[0].skips]) == ("kettle.v0.9.0", ["kettle.v1.1.0", "kettle.v0.9.0"])
    assert found[3].skipRange == ">=1.0.0 <1.2.0"


async def test_a_bundle_asked_for_has_its_csv_and_not_its_edges(client: Client) -> None:
    found = await client.bundle("kettle", "stable", "kettle.v1.2.0")
    assert json.loads(found.csvJson)["metadata"]["name"] == "kettle.v1.2.0"
    assert list(found.object) == [found.csvJson]
    assert (found.channelName, found.replaces, list(found.skips)) == ("stable", "", [])
    assert found.skipRange == ">=1.0.0 <1.2.0"
    assert await client.head("kettle", "stable") == found
    assert await client.replacing("kettle.v1.1.0", "kettle", "stable") == found
    assert (await client.replacing("kettle.v1.0.0", "kettle", "stable")).csvName == "kettle.v1.1.0"


async def test_entries_of_channels_are_told_by_what_they_replace_and_provide(client: Client) -> None:
    assert shown(await client.replacements("kettle.v1.1.0")) == [
        "kettle/alpha/kettle.v1.2.0 <- kettle.v0.9.0",
        "kettle/stable/kettle.v1.2.0 <- kettle.v1.0.0",
    ]
    assert shown(await client.replacements("kettle.v0.9.0")) == ["kettle/alpha/kettle.v1.2.0 <- kettle.v0.9.0"]
    assert shown(await client.providers(KETTLE)) == [
        "kettle/alpha/kettle.v1.2.0 <- kettle.v0.9.0",
        "kettle/alpha/kettle.v1.2.0 <- kettle.v1.1.0",
        "kettle/stable/kettle.v1.0.0 <- ",
        "kettle/stable/kettle.v1.1.0 <- kettle.v1.0.0",
        "kettle/stable/kettle.v1.2.0 <- kettle.v1.0.0",
        "kettle/stable/kettle.v1.2.0 <- kettle.v1.1.0",
        "pot/stable/pot.v1.0.0 <- ",
        "pot/stable/pot.v2.0.0 <- pot.v1.0.0",
    ]
    assert shown(await client.providers(KETTLE, latest=True)) == [
        "kettle/alpha/kettle.v1.2.0 <- kettle.v0.9.0",  # what it skips is not in that channel
        "kettle/stable/kettle.v1.2.0 <- kettle.v1.0.0",
        "kettle/stable/kettle.v1.2.0 <- kettle.v1.1.0",
        "pot/stable/pot.v2.0.0 <- pot.v1.0.0",
    ]
    default = await client.default_provider(KETTLE)
    assert (default.packageName, default.channelName, default.csvName) == ("kettle", "stable", "kettle.v1.2.0")
    assert default.csvJson


async def test_documents_of_other_schemas_are_answered_to_who_acknowledges_the_experiment(client: Client) -> None:
    assert [MessageToDict(each) for each in await client.custom("example.note", "kettle")] == [NOTES[0]]
    assert [MessageToDict(each) for each in await client.custom("example.note", "cup")] == [NOTES[1]]
    assert [MessageToDict(each) for each in await client.custom("example.note")] == [NOTES[2]]
    assert await client.custom("example.note", "pot") == []
    assert await client.custom("example.note", said=None) == []
    assert await client.custom("", said="yes") == []


NOT_HERE = [
    (lambda c: c.package("nope"), 'package "nope" not found'),
    (lambda c: c.head("kettle", "nope"), 'package "kettle", channel "nope" not found'),
    (lambda c: c.head("nope", "stable"), 'package "nope" not found'),
    (
        lambda c: c.bundle("kettle", "stable", "nope"),
        'package "kettle", channel "stable", bundle "nope" not found',
    ),
    (lambda c: c.replacing("nope"), "package  not found"),
    (lambda c: c.replacing("nope", "kettle", "x"), 'package "kettle", channel "x" not found'),
    (lambda c: c.replacing("nope", "kettle", "stable"), 'no entry found for package "kettle", channel "stable"'),
    (lambda c: c.replacements("nope"), "no channel entries found that replace nope"),
    (
        lambda c: c.providers(("a", "v1", 'B"')),
        'no channel entries found that provide group:"a" version:"v1" kind:"B\\""',
    ),
    (
        lambda c: c.providers(("a", "v1", "B"), latest=True),
        'no channel entries found that provide group:"a" version:"v1" kind:"B"',
    ),
    (
        lambda c: c.default_provider(("a", "v1", "B")),
        'no channel entries found that provide group:"a" version:"v1" kind:"B"',
    ),
]


@pytest.mark.parametrize(("ask", "words"), NOT_HERE)
async def test_what_is_not_here_is_unknown_in_the_words_of_the_reference(
    client: Client, ask: Callable[[Client], Awaitable[object]], words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(client)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNKNOWN, words)


@pytest.mark.parametrize(
    ("schema", "package_name", "words"),
    [
        ("", "", "schema is required"),
        (
            "a/b",
            "",
            'invalid custom schema query: invalid schema "a/b": must match ^[a-zA-Z0-9][a-zA-Z0-9._-]*$',
        ),
        (
            "a",
            "..",
            'invalid custom schema query: invalid packageName "..": must match ^[a-zA-Z0-9][a-zA-Z0-9._-]*$',
        ),
    ],
)
async def test_a_question_for_a_schema_that_can_be_none_is_invalid(
    client: Client, schema: str, package_name: str, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await client.custom(schema, package_name)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, words)


@pytest.mark.parametrize(
    ("text", "printed"),
    [("a", '"a"'), ('"\\', '"\\"\\\\"'), ("\n\0\x7f", '"\\n\\x00\\x7f"'), ("ä\u2028", '"ä\\u2028"')],
)
def test_names_are_printed_as_go_prints_them(text: str, printed: str) -> None:
    assert quoted(text) == printed


# --- tools ---


async def test_any_service_is_healthy(client: Client) -> None:
    assert await client.healthy()
    assert await client.healthy("anything")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_names_the_services_and_gives_what_describes_them(client: Client, version: str) -> None:
    asked = tools.ServerReflectionRequest
    symbols = ("api.Registry", "api.Registry.ListBundles", "api.Bundle.csvJson", "grpc.health.v1.Health")
    listed, *found, absent, extension = await client.reflect(
        asked(list_services="*"),
        *(asked(file_containing_symbol=symbol) for symbol in symbols),
        asked(file_by_filename="nope.proto"),
        asked(all_extension_numbers_of_type="nope"),
        version=version,
    )
    assert [service.name for service in listed.list_services_response.service] == [
        "api.ExperimentalRegistry",
        "api.Registry",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    names = []
    for each in found:
        files = each.file_descriptor_response.file_descriptor_proto
        names.append([FileDescriptorProto.FromString(file).name for file in files])
    assert names == [["registry.proto", "google/protobuf/struct.proto"]] * 3 + [["grpc/health/v1/health.proto"]]
    assert (absent.error_response.error_code, extension.error_response.error_code) == (5, 5)


async def test_other_methods_are_not_implemented_and_what_is_no_message_is_told(client: Client) -> None:
    for method, request, code in (
        ("/api.Registry/Nope", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/api.Registry/GetPackage", b"\xff", grpc.StatusCode.INTERNAL),
        ("/api.Registry/GetPackage", b"\n\x80\x80\x08" + b"x" * (128 << 10), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        call: Any = client.channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(request, timeout=20)
        assert failed.value.code() is code


# --- a listener's life ---


async def test_a_change_is_shown_to_who_is_connected_and_an_unchanged_sync_disturbs_nobody(shop: Shop) -> None:
    states: list[grpc.ChannelConnectivity] = []
    async with Client(shop.address) as client:
        assert await client.packages() == ["kettle", "pot"]

        async def follow() -> None:
            state = client.channel.get_state()
            while True:
                states.append(state)
                await client.channel.wait_for_state_change(state)
                state = client.channel.get_state(try_to_connect=True)

        following = asyncio.create_task(follow())
        try:
            before = metrics.registry_revisions.labels(*_names()).value
            shop.catalogs.publish(KEY, {"pot": pot("1.0.0", "2.0.0"), "kettle": [*kettle(), NOTES[0]]}, NOTES[1:])
            shop.catalogs.publish(KEY, {"pot": pot("3.0.0")})
            await shop.shows("pot")
            await eventually(lambda: len(states) >= 3 and states[-1] is grpc.ChannelConnectivity.READY)
            assert await client.packages() == ["pot"]
            assert metrics.registry_revisions.labels(*_names()).value - before == 1
            assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
            count = len(states)
            shop.catalogs.publish(KEY, {"pot": pot("3.0.0")})
            assert await client.packages() == ["pot"]
            assert len(states) == count
        finally:
            following.cancel()


async def test_a_change_is_answered_also_while_a_call_keeps_a_connection_of_before(shop: Shop) -> None:
    address = shop.address
    listener = shop.registry._ports[KEY].listener
    async with Client(address) as client:
        call: Any = client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
        await call.write(tools.ServerReflectionRequest(list_services="*").SerializeToString())
        await call.read()
        shop.catalogs.publish(KEY, {"pot": pot("3.0.0")})
        await shop.shows("pot")
        for _ in range(30):
            async with Client(address) as another:
                assert await another.packages() == ["pot"]
        await eventually(lambda: listener.connections == 1)
        await call.write(tools.ServerReflectionRequest(list_services="*").SerializeToString())
        await call.read()  # what was begun goes on
        await call.done_writing()
        await eventually(lambda: listener.connections == 0)


async def test_at_no_look_there_is_nothing_while_content_changes(shop: Shop) -> None:
    seen: set[tuple[str, ...]] = set()

    async def look() -> None:
        while True:
            async with Client(shop.address) as client:
                seen.add(tuple(await client.packages()))

    looking = [asyncio.create_task(look()) for _ in range(4)]
    for at in range(1, 6):
        name = f"p{at}"
        shop.catalogs.publish(KEY, {name: [package(name), channel(name, "stable", entry("b")), _of(name)]})
        await eventually(lambda name=name: (name,) in seen)  # type: ignore[misc] # a default of its own
    for each in looking:
        each.cancel()
    for result in await asyncio.gather(*looking, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError), result
    assert () not in seen


async def test_only_packages_that_changed_are_read_again(shop: Shop) -> None:
    shop.catalogs.read.clear()
    shop.catalogs.publish(KEY, {"pot": pot("9.0.0"), "kettle": [*kettle(), NOTES[0]]}, others=NOTES[1:])
    async with Client(shop.address):
        await eventually(lambda: len(shop.catalogs.read) == 1)
    catalog = shop.catalogs.get(KEY)
    assert catalog is not None
    assert shop.catalogs.read == [catalog.packages[1].documents]


async def test_nobody_listens_for_what_is_not_published(shop: Shop) -> None:
    address = shop.address
    shop.catalogs.withdraw(KEY)
    await eventually(lambda: shop.registry.address(KEY) is None)
    with pytest.raises(OSError):  # noqa: PT011 - refused, whatever the words
        await asyncio.open_connection(address.host, address.port)


async def test_a_change_opens_no_port_of_a_server_that_stops(shop: Shop) -> None:
    await shop.registry.close(0.0)
    shop.catalogs.publish(KEY, {"pot": pot("9.0.0")})
    await eventually(lambda: not shop.registry._ports[KEY].changed.is_set() and shop.catalogs._changed.empty())
    assert shop.registry.address(KEY) is None


async def test_what_cannot_be_read_leaves_what_is_shown(shop: Shop) -> None:
    shop.catalogs.publish(KEY, {"pot": pot("9.0.0")})
    shop.catalogs.lose()
    await eventually(lambda: len(shop.catalogs.read) > 3)
    await shop.shows("kettle", "pot")


async def test_a_catalog_over_the_bound_is_refused_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "WEIGHT", 100)
    catalogs = Catalogs()
    catalogs.publish(KEY, {"pot": pot("1.0.0")})
    async with running(catalogs) as shop:
        await eventually(lambda: shop.registry.check() is None)
        assert shop.registry.address(KEY) is None
    assert "would take more than 100 bytes" in str([record.__dict__.get("error") for record in caplog.records])


async def test_a_refused_package_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    catalogs = Catalogs()
    catalogs.publish(KEY, {"pot": pot("1.0.0"), "bad": [*pot("1.0.0"), package("bad")]})
    async with running(catalogs) as shop:
        await shop.open()
        await shop.shows("pot")
        assert metrics.registry_refused.labels(*_names()).value == 1
    [told] = [record for record in caplog.records if "left out" in record.message]
    assert told.__dict__["package"] == "bad"


async def test_readiness_waits_for_the_port_of_what_is_published() -> None:
    catalogs = Catalogs()
    catalogs.known = False
    async with running(catalogs) as shop:
        assert shop.registry.check() == "the registry does not listen yet for: teashop"
        catalogs.publish(KEY, {"pot": pot("1.0.0")})
        catalogs.known = True
        await shop.open()
        assert shop.registry.check() is None


async def test_what_was_never_synced_holds_up_nobody() -> None:
    catalogs = Catalogs()
    catalogs.publish(KEY, {})
    catalogs._catalogs.clear()
    async with running(catalogs) as shop:
        assert shop.registry.check() is None


async def test_a_port_that_another_process_has_is_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        catalogs = Catalogs()
        catalogs.publish(KEY, {"pot": pot("1.0.0")})
        async with running(catalogs, other.getsockname()[1]) as shop:
            await eventually(lambda: any("cannot be brought" in record.message for record in caplog.records))
            assert shop.registry.address(KEY) is None


# --- bounds ---


async def test_a_hundred_lists_at_once_are_all_whole(shop: Shop) -> None:
    large = [bundle("pot", f"{at}.0.0", metadata(description=str(at) * 1000)) for at in range(1, 60)]
    names = [each["name"] for each in large]
    edges = [entry(name, before) for name, before in zip(names, ["", *names], strict=False)]
    shop.catalogs.publish(KEY, {"pot": [package("pot"), channel("pot", "stable", *edges), *large]})
    await shop.shows("pot")
    async with Client(shop.address) as client:
        assert [len(found) for found in await asyncio.gather(*(client.bundles() for _ in range(100)))] == [59] * 100


async def test_a_bundle_over_four_mebibytes_is_answered_where_the_client_takes_it(shop: Shop) -> None:
    csv = manifest(b'{"kind": "ClusterServiceVersion", "a": "' + b"x" * (5 << 20) + b'"}')
    shop.catalogs.publish(KEY, {"pot": [package("pot"), channel("pot", "stable", entry("pot.v1.0.0")), _with(csv)]})
    await shop.shows("pot")
    async with Client(shop.address) as client:
        assert len((await client.head("pot", "stable")).csvJson) > 5 << 20
        assert len(await client.bundles()) == 1


async def test_who_does_not_read_is_let_go(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STALL_S", 0.3)
    inline = [_with(manifest({"kind": "A", "a": "x" * 200_000}), version=f"{at}.0.0", image="") for at in range(1, 40)]
    names = [each["name"] for each in inline]
    edges = [entry(name, before) for name, before in zip(names, ["", *names], strict=False)]
    shop.catalogs.publish(KEY, {"pot": [package("pot"), channel("pot", "stable", *edges), *inline]})
    await shop.shows("pot")
    ended = metrics.registry_calls.labels("ListBundles", "DEADLINE_EXCEEDED")
    before = ended.value
    # What is not read is not taken in either, as it is while a client guesses how much may be under way.
    async with Client(shop.address, ("grpc.http2.bdp_probe", 0)) as client:
        ask: Any = client.channel.unary_stream("/api.Registry/ListBundles")
        asked = [ask(b"") for _ in range(8)]
        for call in asked:
            await call.read()
        await eventually(lambda: ended.value - before == 8)


async def test_a_client_has_its_share_of_calls_and_bytes() -> None:
    room = Room()
    for _ in range(CALLS_EACH):
        room.enter("a")
    with pytest.raises(BusyError):
        room.enter("a")
    room.enter("b")
    await room.hold("a", HELD_BYTES_EACH)
    with pytest.raises(BusyError):
        await room.hold("a", 1, wait_s=0)
    await room.hold("b", HELD_BYTES_EACH * 2)  # a first answer is taken whatever its size
    room.give_back("b", HELD_BYTES_EACH * 2)
    room.give_back("a", HELD_BYTES_EACH)
    room.leave("b")
    for _ in range(CALLS_EACH):
        room.leave("a")
    assert not any((room.calls, room.held, room.all_calls, room.all_held))


async def test_connections_have_a_bound_and_who_has_most_makes_room(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "CONNECTIONS", 5)
    monkeypatch.setattr(listening, "CONNECTIONS_EACH", 3)
    listener = shop.registry._ports[KEY].listener

    async def connect(host: str) -> asyncio.StreamReader:
        count = listener.connections
        reader, writer = await asyncio.open_connection(*_of_shop(shop), local_addr=(host, 0))
        writers.append(writer)
        await reader.readexactly(9)  # its SETTINGS
        assert listener.connections <= count + 1
        return reader

    writers: list[asyncio.StreamWriter] = []
    async with Client(shop.address) as busy:
        call: Any = busy.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
        await call.write(tools.ServerReflectionRequest(list_services="*").SerializeToString())
        await call.read()
        first = await connect("127.0.0.1")
        second = await connect("127.0.0.1")
        await connect("127.0.0.1")  # the fourth of its address
        await _ended(first)
        await connect("127.0.0.2")
        await connect("127.0.0.3")
        await connect("127.0.0.4")  # the sixth of all
        await _ended(second)
        assert listener.connections == 5
        await call.write(tools.ServerReflectionRequest(list_services="*").SerializeToString())
        assert await call.read()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        for each in writers:
            each.close()
    del call  # which has a hold of its connection
    await eventually(lambda: listener.connections == 0)


async def test_a_call_that_goes_on_over_changes_ends_with_the_third(shop: Shop) -> None:
    async with Client(shop.address) as client:
        asked = tools.ServerReflectionRequest(list_services="*")
        call: Any = client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
        await call.write(asked.SerializeToString())
        await call.read()
        for at in range(1, listening.MOST_LEAVING + 2):
            assert not call.done()
            name = f"p{at}"
            shop.catalogs.publish(KEY, {name: [package(name), channel(name, "stable", entry("b")), _of(name)]})
            await shop.shows(name)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


def _of_shop(shop: Shop) -> tuple[str, int]:
    return shop.address.host, shop.address.port


async def _ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass


def _names() -> tuple[str, str]:
    return KEY.namespace, KEY.name


def _of(name: str) -> Document:
    return bundle(name, "1.0.0") | {"name": "b"}


def _with(*properties: Document, version: str = "1.0.0", image: str | None = None) -> Document:
    return bundle("pot", version, *properties, image=image)
