"""Who writes, and whether he may approve: rights that are asked for besides that to the request itself.

In a cluster each is a SubjectAccessReview of its own (RBAC); on a server with files of access its groups say. Without a
gate everybody may, and nobody is told from another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cacheserver.api.attributes import Attributes
from cacheserver.api.auth import Gate
from cacheserver.api.kinds.repository import REPOSITORY
from cacheserver.api.kinds.revision import PACKAGE_REVISION
from cacheserver.api.status import StatusError, forbidden
from cacheserver.model import CONFIG_GROUP, GROUP
from cacheserver.publish import refusals
from cacheserver.publish.author import Who
from cacheserver.security.identity import Identity

if TYPE_CHECKING:
    from cacheserver.api.verbs import Call

APPROVAL: Final = "approval"
"""The subresource whose update is the right to decide."""
STATUS: Final = "status"
"""The subresource of those who say how a revision is: applications."""
_APPROVE: Final = "approve"
"""Ours: the verb on a Repository, by name, that spec.approval.perRepository asks for besides."""


def who(call: Call, gate: Gate | None, nobody: str, name: str) -> Who:
    """The author of a request that concerns the revision of this name. nobody: who it is where nobody is asked."""
    identity, attributes = call.identity, call.attributes
    namespace, version = attributes.namespace, attributes.version

    async def approve() -> None:
        asked = Attributes("update", "", GROUP, version, PACKAGE_REVISION.plural, APPROVAL, namespace, name)
        needed = f'the right to update "{PACKAGE_REVISION.plural}/{APPROVAL}" in API group "{GROUP}"'
        await _ask(gate, identity, asked, name, needed)

    async def approve_in(repository: str) -> None:
        asked = Attributes(_APPROVE, "", CONFIG_GROUP, version, REPOSITORY.plural, "", namespace, repository)
        needed = (
            f'the right to {_APPROVE} "{REPOSITORY.plural}" in API group "{CONFIG_GROUP}" by the name "{repository}" '
            "(spec.approval.perRepository)"
        )
        await _ask(gate, identity, asked, name, needed)

    async def fetch() -> None:
        asked = Attributes("create", "", CONFIG_GROUP, version, REPOSITORY.plural, "", namespace)
        needed = f'the right to create "{REPOSITORY.plural}" in API group "{CONFIG_GROUP}"'
        await _ask(gate, identity, asked, name, needed, what="have a URL fetched")

    return Who(call.user or nobody, approve, approve_in, fetch)


async def _ask(
    gate: Gate | None, identity: Identity | None, asked: Attributes, name: str, needed: str, *, what: str = "approve"
) -> None:
    """Raises: RefusedError 403 that names the right, and why it is not given; StatusError where nobody can say."""
    if gate is None or identity is None:
        return
    try:
        await gate.authorize(identity, asked)
    except StatusError as exc:
        if exc.code != 403:
            raise
        reason = str(exc).removeprefix(str(forbidden(identity.user, asked)))
        why = f'User {identity.user!r} may not {what}: that needs {needed} in the namespace "{asked.namespace}"{reason}'
        raise refusals.forbidden(name, why) from exc
