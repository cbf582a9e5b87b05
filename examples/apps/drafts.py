"""What both programs share: they follow the drafts whose gate is theirs, and say how these are.

Everything is decided by what is there now, so an event that is missed, doubled or late does no harm: whatever fails,
the watch begins anew, and with it every draft is looked at again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from kubernetes_asyncio import client, config, watch

log = logging.getLogger("apps")

GROUP, VERSION = "cacheserver.dev", "v1alpha1"
MERGE = "application/merge-patch+json"
OPEN = "cacheserver.dev/lifecycle in (Draft,Proposed)"
AGAIN_S = 1.0
"""Before the watch begins anew: a server that restarts is not asked a hundred times a second."""
OVERTAKEN = (404, 409)
"""It went, or somebody else was faster: there is an event of that, and it is looked at then."""

Look = Callable[[dict[str, Any]], Awaitable[None]]


class Drafts:
    """Of one namespace. gate: the type of the condition that this program writes."""

    def __init__(self, api: client.ApiClient, namespace: str, gate: str) -> None:
        self._objects = client.CustomObjectsApi(api)
        self._namespace = namespace
        self.gate = gate

    async def follow(self, look: Look) -> None:
        """Call `look` with every draft that has the gate, now and whenever it changes; for ever."""
        while True:
            try:
                async with watch.Watch() as watching:
                    # Without a resourceVersion a watch begins with everything that there is.
                    stream = watching.stream(
                        self._objects.list_namespaced_custom_object,
                        GROUP,
                        VERSION,
                        self._namespace,
                        "packagerevisions",
                        label_selector=OPEN,
                    )
                    async for event in stream:
                        if event["type"] in ("ADDED", "MODIFIED"):
                            await self._looked(look, event["object"])
            except (client.ApiException, aiohttp.ClientError, TimeoutError) as exc:
                log.warning("the watch begins anew: %s", str(exc).splitlines()[0])
            await asyncio.sleep(AGAIN_S)

    async def _looked(self, look: Look, revision: dict[str, Any]) -> None:
        gates = [*revision["spec"].get("readinessGates", []), *revision["status"].get("readinessGates", [])]
        if self.gate not in [gate["conditionType"] for gate in gates]:
            return
        try:
            await look(revision)
        except client.ApiException as exc:
            if exc.status not in OVERTAKEN:
                raise
            log.info("%s: overtaken", revision["metadata"]["name"])

    async def resources(self, revision: dict[str, Any]) -> dict[str, Any]:
        """The revision's files: spec.resources, and status.digest, of which they are."""
        name = revision["metadata"]["name"]
        found: dict[str, Any] = await self._objects.get_namespaced_custom_object(
            GROUP, VERSION, self._namespace, "packagerevisionresources", name
        )
        return found

    async def save(self, resources: dict[str, Any]) -> None:
        """Replace the files. metadata.resourceVersion is of when they were read: 409 if somebody saved since."""
        await self._objects.replace_namespaced_custom_object(
            GROUP, VERSION, self._namespace, "packagerevisionresources", resources["metadata"]["name"], resources
        )

    async def say(self, revision: dict[str, Any], digest: str, status: str, reason: str, message: str) -> None:
        """Write the gate's condition, of the content with this digest; nothing where that is said already."""
        said = {"type": self.gate, "status": status, "reason": reason, "message": message, "observedDigest": digest}
        for each in revision["status"].get("conditions", []):
            if {name: each.get(name, "") for name in said} == said:
                return
        name = revision["metadata"]["name"]
        # A merge patch with one condition sets that, and leaves those of others alone.
        await self._objects.patch_namespaced_custom_object_status(
            GROUP,
            VERSION,
            self._namespace,
            "packagerevisions",
            name,
            {"status": {"conditions": [said]}},
            _content_type=MERGE,
        )
        log.info("%s: %s is %s: %s", name, self.gate, status, message or reason)


def run(gate: str, make: Callable[[Drafts], Look]) -> None:
    """Run until it is killed. make: the program, of its drafts."""
    parser = argparse.ArgumentParser(description=f"Writes the condition {gate} of drafts.")
    parser.add_argument("--namespace", default="default")
    namespace = parser.parse_args().namespace
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    async def main() -> None:
        await config.load_config()  # $KUBECONFIG, or the Pod's service account
        async with client.ApiClient() as api:
            drafts = Drafts(api, namespace, gate)
            await drafts.follow(make(drafts))

    asyncio.run(main())
