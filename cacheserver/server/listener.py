"""TLS, authentication and authorization of the listener, as the settings ask: by reviews of the host cluster, or by
files of tokens and certificate authorities.

Builds it as the settings ask, for the server to wire in. Nothing of the cluster is imported unless it is asked for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cacheserver.api import Gate, HealthCheck, ReviewingGate
from cacheserver.config import Kubernetes, ServingSettings
from cacheserver.security.authorities import Bundle, parse_authorities
from cacheserver.security.followed import FollowedFile
from cacheserver.security.tls import ServingTLS
from cacheserver.security.tokenfile import Tokens, parse_tokens
from cacheserver.server.access import FileAuthentication, Groups, GroupsAccess
from cacheserver.slotted import slotted

if TYPE_CHECKING:
    from cacheserver.cluster.kubeapi import KubeAPI

Loop = Callable[[], Coroutine[Any, Any, None]]


@slotted(frozen=True)
class Listener:
    """context: to listen with; None for plain HTTP. gate: None lets everybody in. checks: for readyz.

    kubernetes: the connection to the host cluster, open as long as this is.
    """

    context: ssl.SSLContext | None
    gate: Gate | None
    checks: Mapping[str, HealthCheck]
    kubernetes: KubeAPI | None
    loops: Sequence[Loop]

    async def run(self) -> None:
        """Follows certificates and CAs as they change, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in self.loops:
                group.create_task(loop(), name=f"listener: {loop.__qualname__}")


@asynccontextmanager
async def open_listener(serving: ServingSettings) -> AsyncIterator[Listener]:
    """Raises: ConfigError for a certificate, a kubeconfig or a file of who is let in that cannot be used."""
    checks: dict[str, HealthCheck] = {}
    loops: list[Loop] = []
    tls: ServingTLS | None = None
    if serving.tls_cert_file is not None and serving.tls_key_file is not None:
        asked = serving.kubernetes is not Kubernetes.OFF or serving.client_ca_file is not None
        tls = ServingTLS(serving.tls_cert_file, serving.tls_key_file, ask_clients=asked)
        await tls.load()
        checks["serving-certificate"] = tls.check
        loops.append(tls.run)
    async with AsyncExitStack() as stack:
        gate = kubernetes = None
        if serving.kubernetes is not Kubernetes.OFF:
            kubeconfig = serving.kubernetes if isinstance(serving.kubernetes, Path) else None
            gate, kubernetes = await _gate(stack, kubeconfig, tls, checks, loops)
        elif serving.access_files:
            gate = await _gate_of_files(serving, tls, loops)
        yield Listener(tls.context if tls else None, gate, checks, kubernetes, loops)


async def _gate_of_files(serving: ServingSettings, tls: ServingTLS | None, loops: list[Loop]) -> Gate:
    """Raises: ConfigError for a file that cannot be used."""
    authentication = FileAuthentication()

    async def trust(bundle: Bundle) -> None:
        if tls is not None:
            await tls.trust(bundle.pem)
        authentication.trust(bundle)

    async def know(tokens: Tokens) -> None:
        authentication.know(tokens)

    if serving.client_ca_file is not None:
        authorities = FollowedFile(serving.client_ca_file, "--client-ca-file", parse_authorities, trust, secret=False)
        await authorities.load()
        loops.append(authorities.run)
    if serving.token_auth_file is not None:
        tokens = FollowedFile(serving.token_auth_file, "--token-auth-file", parse_tokens, know, secret=True)
        await tokens.load()
        loops.append(tokens.run)
    return ReviewingGate(
        authentication, GroupsAccess(Groups(serving.readers, serving.authors, serving.approvers, serving.validators))
    )


async def _gate(
    stack: AsyncExitStack,
    kubeconfig: Path | None,
    tls: ServingTLS | None,
    checks: dict[str, HealthCheck],
    loops: list[Loop],
) -> tuple[Gate, KubeAPI]:
    from cacheserver.cluster.authentication import Authentication, Tokens  # noqa: PLC0415  see above
    from cacheserver.cluster.authorization import Authorization  # noqa: PLC0415
    from cacheserver.cluster.kubeapi import KubeAPI  # noqa: PLC0415
    from cacheserver.cluster.trust import Published, Trust  # noqa: PLC0415

    async def take(trust: Trust) -> None:
        if tls is not None:
            await tls.trust(trust.client_cas)

    kubernetes = await stack.enter_async_context(KubeAPI(kubeconfig))
    published = Published(kubernetes, take)
    tokens, authorization = Tokens(kubernetes), Authorization(kubernetes)
    stack.push_async_callback(tokens.close)
    stack.push_async_callback(authorization.close)
    checks["host-cluster-trust"] = published.check
    loops.append(published.run)
    return ReviewingGate(Authentication(published, tokens), authorization), kubernetes
