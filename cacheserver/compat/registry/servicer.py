"""gRPC's side of the registry: which call is answered by what, and what a client may take up. Made for one Content.

Every call is answered as a stream, for one message is a stream of one: so each is under the same bounds, whoever asks,
and a client that does not read is let go wherever it stops.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from cacheserver import metrics
from cacheserver.compat.registry import reflection
from cacheserver.compat.registry import registry_pb2 as pb
from cacheserver.compat.registry import tools_pb2 as tools
from cacheserver.compat.registry.content import Batch, Content, InvalidError, NotFoundError

STALL_S: Final = 60.0
"""A client that takes no byte for so long is let go, as over HTTP; a stream of questions without one ends too."""
CALLS: Final = 512
"""Under way in a process at the same time. OLM has a dozen for each catalog while it reads one."""
CALLS_EACH: Final = 128
"""Of these, of one address: a client in Go asks a hundred at once over one connection (MAX_CONCURRENT_STREAMS)."""
HELD_BYTES: Final = 64 << 20
"""Of answers that clients have not taken: as all readers of content may hold (api/http/budget.py)."""
HELD_BYTES_EACH: Final = 16 << 20
_ROOM_S: Final = 10.0
_LOOK_S: Final = 0.02
"""Between two looks whether there is room: who waits stands behind clients who do not read."""

_ACKNOWLEDGED: Final = ("x-acknowledge-experimental", "true")
_SERVING: Final = tools.HealthCheckResponse(status=tools.HealthCheckResponse.SERVING).SerializeToString()

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Answer = Callable[[bytes, _Context], AsyncIterator[Batch]]
_M = TypeVar("_M", bound=Message)


class BusyError(Exception):
    """There is no room for a call, or for its answer."""


class _StalledError(Exception):
    """The client did not take what was sent."""


@dataclass(slots=True)
class Room:
    """What all clients of a process may take up, and each of them."""

    calls: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    all_calls: int = 0
    all_held: int = 0

    def enter(self, who: str) -> None:
        """Raises: BusyError."""
        if self.all_calls >= CALLS or self.calls[who] >= CALLS_EACH:
            raise BusyError(f"too many calls at the same time: {CALLS_EACH} of one client, {CALLS} of all")
        self.calls[who] += 1
        self.all_calls += 1

    def leave(self, who: str) -> None:
        """As many times as enter()."""
        self.all_calls -= 1
        _take(self.calls, who, 1)

    async def hold(self, who: str, size: int, *, wait_s: float = _ROOM_S) -> None:
        """Waits a while for room. A client's only answer fits whatever its size. Raises: BusyError."""
        until = monotonic() + wait_s
        while self.all_held + size > HELD_BYTES or (who in self.held and self.held[who] + size > HELD_BYTES_EACH):
            if monotonic() >= until:
                raise BusyError(f"answers that were not taken hold {HELD_BYTES_EACH} bytes of one client, or all bytes")
            await asyncio.sleep(_LOOK_S)
        self.held[who] += size
        self.all_held += size

    def give_back(self, who: str, size: int) -> None:
        """What hold() took."""
        self.all_held -= size
        _take(self.held, who, size)


def _take(counted: Counter[str], who: str, size: int) -> None:
    counted[who] -= size
    if counted[who] <= 0:
        del counted[who]


class Services(grpc.GenericRpcHandler):
    """All services, for one Content."""

    def __init__(self, content: Content, room: Room) -> None:
        self._content = content
        self._room = room
        self._calls = 0
        self._asked = 0.0
        self._methods = {path: self._handler(path, answer) for path, answer in self._answers().items()}
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            self._methods[path] = grpc.stream_stream_rpc_method_handler(functools.partial(self._reflect, path))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """How a path is answered; None: it is UNIMPLEMENTED."""
        return self._methods.get(handler_call_details.method)

    async def quiet(self, *, least_s: float, most_s: float) -> None:
        """Returns when nobody has asked for least_s and no call is under way, after most_s in any case."""
        until, self._asked = monotonic() + most_s, monotonic()
        while (left_s := until - monotonic()) > 0:
            since_s = monotonic() - self._asked
            if not self._calls and since_s >= least_s:
                return
            await asyncio.sleep(min(left_s, _LOOK_S))

    def _answers(self) -> dict[str, _Answer]:
        content = self._content
        calls: dict[str, _Answer] = {
            "ListPackages": _many(pb.ListPackageRequest, lambda _: content.list_packages()),
            "GetPackage": _one(pb.GetPackageRequest, lambda asked: content.package(asked.name)),
            "ListBundles": _stream(pb.ListBundlesRequest, lambda _: content.list_bundles()),
            "GetBundle": _one(
                pb.GetBundleRequest, lambda asked: content.bundle(asked.pkgName, asked.channelName, asked.csvName)
            ),
            "GetBundleForChannel": _one(
                pb.GetBundleInChannelRequest, lambda asked: content.head(asked.pkgName, asked.channelName)
            ),
            "GetBundleThatReplaces": _one(
                pb.GetReplacementRequest,
                lambda asked: content.replacing(asked.csvName, asked.pkgName, asked.channelName),
            ),
            "GetChannelEntriesThatReplace": _stream(
                pb.GetAllReplacementsRequest, lambda asked: content.replacements(asked.csvName)
            ),
            "GetChannelEntriesThatProvide": _stream(
                pb.GetAllProvidersRequest, lambda asked: content.providers((asked.group, asked.version, asked.kind))
            ),
            "GetLatestChannelEntriesThatProvide": _many(
                pb.GetLatestProvidersRequest,
                lambda asked: content.latest_providers((asked.group, asked.version, asked.kind)),
            ),
            "GetDefaultBundleThatProvides": _one(
                pb.GetDefaultProviderRequest,
                lambda asked: content.default_provider((asked.group, asked.version, asked.kind)),
            ),
        }
        return {f"/api.Registry/{name}": answer for name, answer in calls.items()} | {
            "/api.ExperimentalRegistry/ExperimentalListPackageCustomSchemas": self._custom,
            "/grpc.health.v1.Health/Check": _one(tools.HealthCheckRequest, lambda _: _SERVING),
            "/grpc.health.v1.Health/Watch": self._watch_health,
        }

    def _handler(self, path: str, answer: _Answer) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = path.rpartition("/")[2]

        async def handle(request: bytes, context: _Context) -> None:
            await self._handle(method, answer, request, context)

        return grpc.unary_stream_rpc_method_handler(handle)

    async def _handle(self, method: str, answer: _Answer, request: bytes, context: _Context) -> None:
        code, details = grpc.StatusCode.OK, ""
        who = address_of(context.peer())
        self._calls += 1
        self._asked = monotonic()
        try:
            self._room.enter(who)
            try:
                async with aclosing(answer(request, context)) as batches:  # type: ignore[type-var] # all are generators
                    async for batch in batches:
                        await self._send(batch, who, context)
            finally:
                self._room.leave(who)
        except NotFoundError as exc:
            code, details = grpc.StatusCode.UNKNOWN, str(exc)
        except InvalidError as exc:
            code, details = grpc.StatusCode.INVALID_ARGUMENT, str(exc)
        except DecodeError:
            code, details = grpc.StatusCode.INTERNAL, "the request is not of this method's type"
        except BusyError as exc:
            code, details = grpc.StatusCode.RESOURCE_EXHAUSTED, str(exc)
        except TimeoutError:
            code, details = grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was asked for {STALL_S:g} s"
        except _StalledError:
            # A status cannot be sent while a message waits to be: gRPC drops a call that ends so.
            metrics.registry_calls.labels(method, grpc.StatusCode.DEADLINE_EXCEEDED.name).inc()
            raise asyncio.CancelledError from None
        finally:
            self._calls -= 1
        metrics.registry_calls.labels(method, code.name).inc()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details)

    async def _send(self, batch: Batch, who: str, context: _Context) -> None:
        await self._room.hold(who, batch.size)
        try:
            async with asyncio.timeout(STALL_S):
                for message in batch.messages:
                    await context.write(message)
        except TimeoutError:
            raise _StalledError from None
        finally:
            self._room.give_back(who, batch.size)

    async def _custom(self, request: bytes, context: _Context) -> AsyncIterator[Batch]:
        """Without the header nothing is answered, so that who does not know the call sees no disruption."""
        said = [value for name, value in context.invocation_metadata() or () if name == _ACKNOWLEDGED[0]]
        if said[:1] != [_ACKNOWLEDGED[1]]:
            return
        asked = pb.ExperimentalListPackageCustomSchemasRequest.FromString(request)
        if not asked.schema:
            raise InvalidError("schema is required")
        async for batch in self._content.custom(asked.schema, asked.packageName):
            yield batch

    async def _watch_health(self, request: bytes, _context: _Context) -> AsyncIterator[Batch]:
        """Well as long as this server stands; ends after a while, for a call that is open counts."""
        tools.HealthCheckRequest.FromString(request)
        yield Batch([_SERVING], len(_SERVING))
        await asyncio.sleep(STALL_S)

    async def _reflect(self, path: str, requests: AsyncIterator[bytes], context: _Context) -> None:
        questions = aiter(requests)

        async def answers(_request: bytes, _context: _Context) -> AsyncIterator[Batch]:
            while True:
                async with asyncio.timeout(STALL_S):
                    asked = await anext(questions, None)
                if asked is None:
                    return
                made = reflection.answer(tools.ServerReflectionRequest.FromString(asked)).SerializeToString()
                yield Batch([made], len(made))

        await self._handle(path.rpartition("/")[2], answers, b"", context)


def address_of(peer: str) -> str:
    """The host of `ipv4:1.2.3.4:56`, without the port that each connection has its own of."""
    return peer.rpartition(":")[0] or peer


def _one(kind: type[_M], ask: Callable[[_M], bytes | Awaitable[bytes]]) -> _Answer:
    async def answer(request: bytes, _context: _Context) -> AsyncIterator[Batch]:
        found = ask(kind.FromString(request))
        made = found if isinstance(found, bytes) else await found
        yield Batch([made], len(made))

    return answer


def _many(kind: type[_M], ask: Callable[[_M], Iterable[Batch]]) -> _Answer:
    async def answer(request: bytes, _context: _Context) -> AsyncIterator[Batch]:
        for batch in ask(kind.FromString(request)):
            yield batch

    return answer


def _stream(kind: type[_M], ask: Callable[[_M], AsyncIterator[Batch]]) -> _Answer:
    async def answer(request: bytes, _context: _Context) -> AsyncIterator[Batch]:
        async for batch in ask(kind.FromString(request)):
            yield batch

    return answer
