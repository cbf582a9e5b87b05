"""What git is to do with a revision: written down with a write, waited for, and what it came to.

Carried out by whoever holds the repository's claim (git/publisher.py), seen in etcd. Called by author.py.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import orjson

from cacheserver.errors import Cause, Compacted, RefusedError, Unavailable
from cacheserver.model import Key, Stored
from cacheserver.publish import refusals
from cacheserver.store.authored import Authored, Held, Operation, Step

ANSWER_WITHIN_S: Final = 25.0
"""For an operation in git. Ours: kube-apiserver ends a request after 60 s, and clients give up after 30."""
_AGAIN_S: Final = 0.2


def asked(step: Step, user: str, stamp: str, version: str = "") -> Operation:
    """A new operation. version: of what is approved, with or without its v."""
    return Operation(secrets.token_hex(8), step, user, stamp, version.removeprefix("v"))


class Asking:
    """See the module. Safe to share between tasks."""

    def __init__(self, authored: Authored, answer_within_s: float) -> None:
        self._authored = authored
        self._answer_within_s = answer_within_s

    async def settled(self, held: Held, operation: Operation) -> Stored | None:
        """The object once the operation is done; None where it is gone then. held: as it was when that was asked for.

        Raises: RefusedError with the operation's failure; 504 where it takes longer than a request may.
        """
        name = held.key.name
        try:
            async with asyncio.timeout(self._answer_within_s):
                after = await self._outcome(held.key, operation, held.served.mod_revision if held.served else 0)
        except TimeoutError:
            why = (
                f"{operation.step} of {refusals.REVISIONS} {name!r} is still being carried out, and goes on: watch it, "
                "status.operation goes when it is done"
            )
            raise RefusedError(504, "Timeout", f"Timeout: {why}", kind=refusals.REVISIONS, name=name) from None
        if after.served is None:
            return None
        last = orjson.loads(after.served.value)["status"].get("lastOperation", {})
        if last.get("id") == operation.id and last.get("result") == "Failed":
            code, reason = int(last.get("code", 500)), last.get("reason", "InternalError")
            message = last.get("message", "it failed")
            # Of what is Invalid kubectl shows causes alone.
            causes = [Cause("FieldValueInvalid", message, "spec.lifecycle")] if reason == "Invalid" else []
            raise RefusedError(
                code,
                reason,
                message,
                kind=refusals.REVISIONS,
                name=name,
                causes=causes,
                retry_after_s=5 if code == 503 else 0,
            )
        return after.served

    async def _outcome(self, key: Key, operation: Operation, after: int) -> Held:
        while True:
            try:
                await self._authored.settled(key, operation.id, after=after)
                return await self._authored.read(key)
            except (Compacted, Unavailable):
                await asyncio.sleep(_AGAIN_S)
                after = 0
