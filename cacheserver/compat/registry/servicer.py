"""The registry's methods: which is answered by what of a Content, for calls.py to send."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message

from cacheserver.compat.registry import reflection
from cacheserver.compat.registry import registry_pb2 as pb
from cacheserver.compat.registry import tools_pb2 as tools
from cacheserver.compat.registry.calls import STALL_S, Fields, Method, Methods
from cacheserver.compat.registry.content import Batch, Content, InvalidError

_ACKNOWLEDGED: Final = (b"x-acknowledge-experimental", b"true")
_SERVING: Final = tools.HealthCheckResponse(status=tools.HealthCheckResponse.SERVING).SerializeToString()

_Answer = Callable[[bytes, Fields], AsyncIterator[Batch]]
_M = TypeVar("_M", bound=Message)
_serials = itertools.count()


def methods_of(content: Content) -> Methods:
    """All services, for one Content."""
    experimental = "ExperimentalListPackageCustomSchemas"
    found = {
        **{
            f"/api.Registry/{name}": Method(name, answer, ready=name != "ListBundles")
            for name, answer in _registry(content).items()
        },
        f"/api.ExperimentalRegistry/{experimental}": Method(experimental, _custom(content)),
        "/grpc.health.v1.Health/Check": Method("Check", _one(tools.HealthCheckRequest, lambda _: _SERVING), ready=True),
        "/grpc.health.v1.Health/Watch": Method("Watch", _watch_health),
    }
    for version in ("v1", "v1alpha"):
        name = "ServerReflectionInfo"
        found[f"/grpc.reflection.{version}.ServerReflection/{name}"] = Method(name, answers=_reflect)
    return Methods(next(_serials), {path.encode(): method for path, method in found.items()})


def _registry(content: Content) -> dict[str, _Answer]:
    return {
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


def _custom(content: Content) -> _Answer:
    async def answer(request: bytes, fields: Fields) -> AsyncIterator[Batch]:
        """Without the header nothing is answered, so that who does not know the call sees no disruption."""
        if fields.get(_ACKNOWLEDGED[0]) != _ACKNOWLEDGED[1]:
            return
        asked = pb.ExperimentalListPackageCustomSchemasRequest.FromString(request)
        if not asked.schema:
            raise InvalidError("schema is required")
        async for batch in content.custom(asked.schema, asked.packageName):
            yield batch

    return answer


async def _watch_health(request: bytes, _fields: Fields) -> AsyncIterator[Batch]:
    """Well as long as this server stands; ends after a while, for a call that is open counts."""
    tools.HealthCheckRequest.FromString(request)
    yield Batch([_SERVING], len(_SERVING))
    await asyncio.sleep(STALL_S)


async def _reflect(questions: AsyncIterator[bytes]) -> AsyncIterator[Batch]:
    async for asked in questions:
        made = reflection.answer(tools.ServerReflectionRequest.FromString(asked)).SerializeToString()
        yield Batch([made], len(made))


def _one(kind: type[_M], ask: Callable[[_M], bytes | Awaitable[bytes]]) -> _Answer:
    async def answer(request: bytes, _fields: Fields) -> AsyncIterator[Batch]:
        found = ask(kind.FromString(request))
        made = found if isinstance(found, bytes) else await found
        yield Batch([made], len(made))

    return answer


def _many(kind: type[_M], ask: Callable[[_M], Iterable[Batch]]) -> _Answer:
    async def answer(request: bytes, _fields: Fields) -> AsyncIterator[Batch]:
        for batch in ask(kind.FromString(request)):
            yield batch

    return answer


def _stream(kind: type[_M], ask: Callable[[_M], AsyncIterator[Batch]]) -> _Answer:
    async def answer(request: bytes, _fields: Fields) -> AsyncIterator[Batch]:
        async for batch in ask(kind.FromString(request)):
            yield batch

    return answer
