"""A client of the gRPC registry, as generated ones are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf import struct_pb2
from google.protobuf.message import Message

from cacheserver.compat.registry import registry_pb2 as pb
from cacheserver.compat.registry import tools_pb2 as tools

_M = TypeVar("_M", bound=Message)


class Client:
    """Over one channel. Raises: grpc.aio.AioRpcError."""

    def __init__(self, address: object, *options: tuple[str, int]) -> None:
        # Each client a connection of its own, as each process has.
        own = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20))
        self.channel = grpc.aio.insecure_channel(str(address), options=(*own, *options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def one(self, method: str, request: Message, kind: type[_M]) -> _M:
        call: Any = self.channel.unary_unary(method, lambda asked: asked.SerializeToString(), kind.FromString)
        answer: _M = await call(request, timeout=20)
        return answer

    async def many(
        self, method: str, request: Message, kind: type[_M], metadata: Sequence[tuple[str, str]] = ()
    ) -> list[_M]:
        call: Any = self.channel.unary_stream(method, lambda asked: asked.SerializeToString(), kind.FromString)
        return [each async for each in call(request, metadata=metadata, timeout=20)]

    async def packages(self) -> list[str]:
        found = await self.many("/api.Registry/ListPackages", pb.ListPackageRequest(), pb.PackageName)
        return [each.name for each in found]

    async def package(self, name: str) -> pb.Package:
        return await self.one("/api.Registry/GetPackage", pb.GetPackageRequest(name=name), pb.Package)

    async def bundles(self) -> list[pb.Bundle]:
        return await self.many("/api.Registry/ListBundles", pb.ListBundlesRequest(), pb.Bundle)

    async def bundle(self, package: str, channel: str, name: str) -> pb.Bundle:
        asked = pb.GetBundleRequest(pkgName=package, channelName=channel, csvName=name)
        return await self.one("/api.Registry/GetBundle", asked, pb.Bundle)

    async def head(self, package: str, channel: str) -> pb.Bundle:
        asked = pb.GetBundleInChannelRequest(pkgName=package, channelName=channel)
        return await self.one("/api.Registry/GetBundleForChannel", asked, pb.Bundle)

    async def replacing(self, name: str, package: str = "", channel: str = "") -> pb.Bundle:
        asked = pb.GetReplacementRequest(csvName=name, pkgName=package, channelName=channel)
        return await self.one("/api.Registry/GetBundleThatReplaces", asked, pb.Bundle)

    async def replacements(self, name: str) -> list[pb.ChannelEntry]:
        asked = pb.GetAllReplacementsRequest(csvName=name)
        return await self.many("/api.Registry/GetChannelEntriesThatReplace", asked, pb.ChannelEntry)

    async def providers(self, api: tuple[str, str, str], *, latest: bool = False) -> list[pb.ChannelEntry]:
        method = "GetLatestChannelEntriesThatProvide" if latest else "GetChannelEntriesThatProvide"
        asked = pb.GetAllProvidersRequest(group=api[0], version=api[1], kind=api[2])
        return await self.many(f"/api.Registry/{method}", asked, pb.ChannelEntry)

    async def default_provider(self, api: tuple[str, str, str]) -> pb.Bundle:
        asked = pb.GetDefaultProviderRequest(group=api[0], version=api[1], kind=api[2])
        return await self.one("/api.Registry/GetDefaultBundleThatProvides", asked, pb.Bundle)

    async def custom(self, schema: str, package: str = "", said: str | None = "true") -> list[struct_pb2.Struct]:
        return await self.many(
            "/api.ExperimentalRegistry/ExperimentalListPackageCustomSchemas",
            pb.ExperimentalListPackageCustomSchemasRequest(schema=schema, packageName=package),
            struct_pb2.Struct,
            () if said is None else (("x-acknowledge-experimental", said),),
        )

    async def healthy(self, service: str = "") -> bool:
        asked = tools.HealthCheckRequest(service=service)
        answer = await self.one("/grpc.health.v1.Health/Check", asked, tools.HealthCheckResponse)
        return bool(answer.status == tools.HealthCheckResponse.SERVING)

    async def reflect(
        self, *questions: tools.ServerReflectionRequest, version: str = "v1"
    ) -> list[tools.ServerReflectionResponse]:
        call: Any = self.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            lambda asked: asked.SerializeToString(),
            tools.ServerReflectionResponse.FromString,
        )
        return [each async for each in call(iter(questions), timeout=20)]
