"""An etcd that comes back under another address, as a pod does that was replaced: its name is asked for again, soon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

from cacheserver.etcd import etcd_pb2 as pb
from cacheserver.etcd import wire
from cacheserver.etcd.endpoint import Address, Endpoint
from tests.support.dns import name_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.etcd


_Handler: TypeAlias = "grpc.RpcMethodHandler[pb.StatusRequest, pb.StatusResponse]"


class _Maintenance(grpc.GenericRpcHandler):
    """All of etcd that a status asks for."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler:
        async def status(_request: pb.StatusRequest, _context: object) -> pb.StatusResponse:
            return pb.StatusResponse(version="3.6.14")

        return grpc.unary_unary_rpc_method_handler(
            status, pb.StatusRequest.FromString, pb.StatusResponse.SerializeToString
        )


@asynccontextmanager
async def etcd_at(host: str, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    bound = server.add_insecure_port(f"{host}:{port}")
    server.add_generic_rpc_handlers((_Maintenance(),))
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


async def test_a_replaced_etcd_is_found_at_its_new_address_once_the_name_says_so() -> None:
    async with name_server("127.0.0.2") as names:
        async with etcd_at("127.0.0.2") as port:
            address = Address("http://etcd.test", f"dns://127.0.0.1:{names.port}/etcd.test:{port}", secure=False)
            endpoint = Endpoint(address, None)

            async def answers() -> bool:
                try:
                    await endpoint.call(wire.STATUS, pb.StatusRequest(), 1.0, ())
                except grpc.aio.AioRpcError:
                    return False
                return True

            assert await answers()
        async with etcd_at("127.0.0.3", port):
            assert not await answers()
            names.address = "127.0.0.3"
            try:
                # gRPC by itself asks for a name once in 30 s.
                await eventually(answers, within_s=15)
            finally:
                await endpoint.close()
