"""gRPC as the registry speaks it, byte by byte: codes, words and forms of grpc-go, for all calls, right or wrong."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from cacheserver import metrics
from cacheserver.compat.registry import calls, room
from cacheserver.compat.registry.calls import REQUEST_BYTES, Call, Fields, Method, Methods
from cacheserver.compat.registry.content import Batch, NotFoundError
from cacheserver.compat.registry.room import CALLS_EACH, Room
from cacheserver.http2.connection import Connection
from cacheserver.http2.frames import GRPC_HEAD, RST_STREAM
from cacheserver.http2.stream import ASK_WITHIN_S, Stream
from tests.fakes.frames import DATA, END_STREAM, HEADERS, frame, message
from tests.fakes.http2 import REQUEST, Client

PATH = "/api.Registry/ListPackages"


@dataclass
class Answered:
    """fields: of the header and the trailers together; status: of HTTP."""

    status: str
    fields: dict[str, str]
    messages: list[bytes]

    @property
    def code(self) -> int:
        return int(self.fields["grpc-status"])

    @property
    def text(self) -> str:
        return self.fields["grpc-message"]


class Shop:
    """Answers; and a client of it."""

    def __init__(self) -> None:
        self.room = Room()
        self.tasks: set[asyncio.Task[None]] = set()
        self.asked: list[bytes] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        methods = {
            PATH.encode(): Method("ListPackages", self._list, ready=True),
            b"/api.Registry/ListBundles": Method("ListBundles", self._list),
            b"/api.Registry/GetPackage": Method("GetPackage", self._absent, ready=True),
            b"/api.Registry/Fault": Method("Fault", self._fault),
            b"/r.Reflection/Info": Method("Info", answers=self._echo),
        }
        self.methods = Methods(1, methods)
        self.client = Client(self)
        self.client.greet()

    async def _list(self, asked: bytes, _: Fields) -> AsyncIterator[Batch]:
        self.asked.append(asked)
        await self.go_on.wait()
        yield Batch([b"green", b"black" * int(asked or b"1")], 10)

    async def _absent(self, asked: bytes, _: Fields) -> AsyncIterator[Batch]:
        raise NotFoundError('package "100% té\n" not found')
        yield

    async def _fault(self, asked: bytes, _: Fields) -> AsyncIterator[Batch]:
        raise RuntimeError("of ours")
        yield

    async def _echo(self, questions: AsyncIterator[bytes]) -> AsyncIterator[Batch]:
        async for asked in questions:
            yield Batch([asked], len(asked))

    def entered(self, connection: Connection) -> bool:
        return True

    def left(self, connection: Connection) -> None: ...

    def opened(self, stream: Stream) -> Call:
        return Call(stream, self.methods, self.room, "192.0.2.1", self.tasks)

    def complain(self, connection: Connection, why: str) -> None: ...

    async def ended(self) -> None:
        while self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def answer(self, stream: int = 1) -> Answered:
        await self.ended()
        return self.heard(stream)

    def heard(self, stream: int = 1) -> Answered:
        fields: dict[str, str] = {}
        body, over = b"", False
        for each in self.client.heard():
            assert not over or (each.kind, each.payload) == (RST_STREAM, bytes(4))
            if each.kind == HEADERS:
                fields |= self.client.fields(each.payload)
                over = bool(each.flags & END_STREAM)
            elif each.kind == DATA:
                body += each.payload
        assert over
        messages = []
        while body:
            size = int.from_bytes(body[1:GRPC_HEAD], "big")
            assert body[0] == 0
            messages.append(body[GRPC_HEAD : GRPC_HEAD + size])
            body = body[GRPC_HEAD + size :]
        return Answered(fields.pop(":status"), fields, messages)


@pytest.fixture
async def shop() -> Shop:
    return Shop()


def asking(path: str = PATH, **fields: str) -> list[tuple[str, str]]:
    """A request's header; what is named otherwise in place of what is ordinary, or behind it."""
    named = {name.replace("_", "-"): value for name, value in fields.items()} | {":path": path}
    if "method" in named:
        named[":method"] = named.pop("method")
    found = [(name, named.pop(name, value)) for name, value in REQUEST]
    return [*(each for each in found if each[1]), *named.items()]


async def test_a_call_is_answered_with_messages_and_a_status(shop: Shop) -> None:
    shop.client.ask(1)
    assert await shop.answer() == Answered(
        "200", {"content-type": "application/grpc", "grpc-status": "0"}, [b"green", b"black"]
    )


async def test_what_was_asked_before_is_answered_at_once_and_not_asked_again(shop: Shop) -> None:
    shop.client.ask(1)
    first = await shop.answer()
    shop.client.ask(3)
    assert not shop.tasks
    assert shop.heard() == first
    shop.client.ask(5, b"2")
    assert (await shop.answer()).messages == [b"green", b"blackblack"]
    assert shop.asked == [b"", b"2"]


async def test_other_content_is_asked_anew(shop: Shop) -> None:
    shop.client.ask(1)
    await shop.answer()
    shop.methods = Methods(2, shop.methods.by_path)
    shop.client.ask(3)
    await shop.answer()
    assert shop.asked == [b"", b""]


async def test_answers_that_nobody_asks_for_are_let_go(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(room, "monotonic", lambda: now)
    shop.client.ask(1)
    await shop.answer()
    assert shop.room.look(now + room.READY_S - 1)
    assert not shop.room.look(now + room.READY_S)
    shop.client.ask(3)
    await shop.answer()
    assert shop.asked == [b"", b""]


async def test_a_ready_answer_larger_than_the_window_is_sent_as_it_opens(shop: Shop) -> None:
    for stream in (1, 3):
        shop.client.ask(stream, b"20000")
        await asyncio.sleep(0)
        size = 0
        while shop.tasks or size < 100_015:
            found = [each for each in shop.client.heard() if each.stream == stream]
            size += sum(len(each.payload) for each in found if each.kind == DATA)
            shop.client.say(
                frame(8, 0, 0, (10_000).to_bytes(4, "big")), frame(8, 0, stream, (10_000).to_bytes(4, "big"))
            )
            await asyncio.sleep(0)
        assert size == 100_015
        assert not shop.client.over
    assert shop.asked == [b"20000"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "text"),
    [
        (asking(method="GET"), "405", 13, 'Received a HEADERS frame with :method "GET" which should be POST'),
        (asking(content_type="text/html"), "415", 3, 'invalid gRPC request content-type "text/html"'),
        (asking(content_type=""), "415", 3, 'invalid gRPC request content-type ""'),
        (asking(content_type="application/grpcs"), "415", 3, 'invalid gRPC request content-type "application/grpcs"'),
        (asking(grpc_timeout="1"), "400", 13, 'malformed grpc-timeout: "1"'),
        (asking(grpc_timeout="123456789S"), "400", 13, 'malformed grpc-timeout: "123456789S"'),
        (asking("/api.Registry/Nope"), "200", 12, "unknown method Nope for service api.Registry"),
        (asking("/nope.Nope/Nope"), "200", 12, "unknown service nope.Nope"),
        (asking("nope"), "200", 12, 'malformed method name: "nope"'),
        (asking(grpc_encoding="gzip"), "200", 12, 'grpc: Decompressor is not installed for grpc-encoding "gzip"'),
    ],
)
async def test_a_call_that_cannot_be_is_refused_in_the_words_of_grpc_go(
    shop: Shop, fields: Sequence[tuple[str, str]], status: str, code: int, text: str
) -> None:
    shop.client.ask(1, b"", fields)
    found = shop.heard()
    assert (found.status, found.code, found.text, found.messages) == (status, code, text.replace("%", "%25"), [])
    assert not shop.asked


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=utf-8", "Application/gRPC"])
async def test_other_names_of_the_content_type_are_taken(shop: Shop, kind: str) -> None:
    shop.client.ask(1, b"", asking(content_type=kind))
    assert (await shop.answer()).code == 0


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"", 13, "cardinality violation: one question is asked in this call"),
        (message(b"") + message(b""), 13, "cardinality violation: one question is asked in this call"),
        (message(b"tea")[:-1], 13, "unexpected EOF"),
        (b"\0\0", 13, "unexpected EOF"),
        (b"\1" + message(b"")[1:], 13, "grpc: compressed flag set with identity or empty encoding"),
        (b"\2" + message(b"")[1:], 13, "grpc: received unexpected payload format 2"),
    ],
)
async def test_a_body_that_is_not_one_message_is_refused(shop: Shop, body: bytes, code: int, text: str) -> None:
    shop.client.ask(1, None)
    shop.client.say(frame(DATA, END_STREAM, 1, body))
    found = shop.heard()
    assert (found.code, found.text) == (code, text)
    assert not shop.asked


async def test_a_message_over_the_bound_is_refused_before_it_has_come(shop: Shop) -> None:
    shop.client.ask(1, None)
    shop.client.say(frame(DATA, 0, 1, b"\0" + (1 << 30).to_bytes(4, "big") + b"x"))
    assert shop.heard().code == 8
    largest = message(b"1" + b" " * (REQUEST_BYTES - 1))
    shop.client.ask(3, None)
    for at in range(0, len(largest), 16 << 10):
        shop.client.say(frame(DATA, 0, 3, largest[at : at + (16 << 10)]))
    shop.client.say(frame(DATA, END_STREAM, 3))
    await shop.ended()
    assert [len(each) for each in shop.asked] == [REQUEST_BYTES]
    assert not shop.client.over


async def test_what_is_not_found_is_told_in_ascii(shop: Shop) -> None:
    shop.client.ask(1, b"", asking("/api.Registry/GetPackage"))
    found = await shop.answer()
    assert (found.code, found.text) == (2, 'package "100%25 t%C3%A9%0A" not found')
    assert "grpc-encoding" not in found.fields


async def test_a_fault_of_ours_ends_the_call_and_no_other(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.client.ask(1, b"", asking("/api.Registry/Fault"))
    assert (await shop.answer()).code == 13
    assert [record.message for record in caplog.records] == ["a call of the registry failed"]
    shop.client.ask(3)
    assert (await shop.answer()).code == 0


async def test_a_conversation_is_answered_question_by_question(shop: Shop) -> None:
    shop.client.ask(1, None, asking("/r.Reflection/Info"))
    shop.client.say(frame(DATA, 0, 1, message(b"a") + message(b"b")[:3]))
    while not any(each.kind == DATA for each in shop.client.heard()):
        await asyncio.sleep(0)
    shop.client.say(frame(DATA, END_STREAM, 1, message(b"b")[3:]))
    await shop.ended()
    data, trailers = shop.client.heard()
    assert (data.payload, trailers.flags) == (message(b"b"), 4 | END_STREAM)


async def test_a_deadline_that_passes_is_told(shop: Shop) -> None:
    shop.go_on.clear()
    shop.client.ask(1, b"", asking(grpc_timeout="1n"))
    found = await shop.answer()
    assert (found.code, found.text) == (4, "context deadline exceeded")


async def test_a_call_that_is_given_up_ends_and_leaves_its_place(shop: Shop) -> None:
    shop.go_on.clear()
    ended = metrics.registry_calls.labels("ListPackages", "CANCELLED")
    before = ended.value
    shop.client.ask(1)
    await asyncio.sleep(0)
    shop.client.say(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    await shop.ended()
    assert ended.value - before == 1
    assert (shop.room.all_calls, shop.client.connection.streams, shop.client.heard()) == (0, 0, [])


async def test_a_call_that_is_given_up_before_it_began_leaves_its_place_too(shop: Shop) -> None:
    shop.client.say(shop.client.question(1) + frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    await shop.ended()
    assert (shop.room.all_calls, shop.client.connection.streams, shop.asked) == (0, 0, [])


async def test_calls_over_a_clients_share_are_refused(shop: Shop) -> None:
    shop.go_on.clear()
    for _ in range(CALLS_EACH):
        shop.room.enter("192.0.2.1")
    shop.client.ask(1)
    found = shop.heard()
    assert (found.code, found.text.split(":")[0]) == (8, "too many calls at the same time")
    assert shop.client.connection.streams == 0


async def test_who_does_not_take_an_answer_is_told_and_let_go(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STALL_S", 0.01)
    shop.client.ask(1, b"20000", asking("/api.Registry/ListBundles"))
    await shop.ended()
    *_, trailers = shop.client.heard()
    assert shop.client.fields(trailers.payload)["grpc-status"] == "4"
    assert (shop.room.all_held, shop.room.all_calls, shop.client.connection.streams) == (0, 0, 0)


async def test_a_question_that_is_never_finished_is_ended(shop: Shop) -> None:
    shop.client.ask(1, None)
    shop.client.connection.look(asyncio.get_running_loop().time() + ASK_WITHIN_S + 1)
    assert shop.heard().code == 4
    assert shop.client.connection.streams == 0


async def test_calls_that_came_together_are_answered_in_one_write(shop: Shop) -> None:
    shop.client.ask(1)
    await shop.answer()
    shop.client.say(*(shop.client.question(stream) for stream in (3, 5, 7)))
    kinds = [(each.kind, each.stream) for each in shop.client.heard()]
    assert kinds == [(kind, stream) for stream in (3, 5, 7) for kind in (HEADERS, DATA, HEADERS)]


async def test_no_call_outlives_its_connection(shop: Shop) -> None:
    shop.go_on.clear()
    for stream in (1, 3):
        shop.client.ask(stream)
    shop.client.ask(5, None, asking("/r.Reflection/Info"))
    shop.client.say(frame(DATA, 0, 5, message(b"a")))
    await asyncio.sleep(0)
    shop.client.connection.connection_lost(None)
    await shop.ended()
    gc.collect()
    assert (shop.room.all_calls, shop.room.all_held) == (0, 0)
    assert not shop.room.calls
