"""One etcd endpoint: its address, what is known of the member behind it, and calls to it. Retries nothing; `transport`
decides what comes next."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from cacheserver.etcd.address import Address, Certificates, Metadata
from cacheserver.etcd.calls import Line
from cacheserver.etcd.version import Version
from cacheserver.etcd.wire import Method, Request, Response
from cacheserver.http2.grpc import CallError, Code


class Endpoint:
    """Holds the lines to it, and what `Transport.probe` found out about the member behind it."""

    def __init__(self, address: Address, certificates: Certificates) -> None:
        self.address = address
        self.probed = False
        self.version: Version | None = None  # None also when only root may ask for it
        self.progress_trusted = False
        self._line = Line(address, certificates)
        self._apart = Line(address, certificates)

    def forget(self) -> None:
        """It failed; it may come back upgraded, or as another member."""
        self.probed, self.version, self.progress_trusted = False, None, False

    async def call(
        self, method: Method[Request, Response], request: Request, timeout: float, metadata: Metadata
    ) -> Response:
        """One attempt. Raises: CallError."""
        line = self._apart if method.apart else self._line
        answer = await line.call(method.path, method.serialize(request), metadata, timeout)
        try:
            return method.parse(answer)
        except DecodeError as exc:
            raise CallError(Code.INTERNAL, "the answer cannot be read") from exc

    async def close(self) -> None:
        """Ends what is under way; nothing is called any more."""
        await self._line.close()
        await self._apart.close()
