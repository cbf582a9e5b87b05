"""What may be done with a package revision in each state of its life. A table, and the words of its refusals; pure.

Draft --propose--> Proposed --approve--> Published --propose deletion--> DeletionProposed --delete--> gone
  ^-----reject--------'                      ^-----------keep-----------------'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cacheserver.errors import RefusedError
from cacheserver.model import Lifecycle
from cacheserver.publish import refusals
from cacheserver.slotted import slotted
from cacheserver.store.authored import AUTHORS_MOST, Draft, Step


@slotted(frozen=True)
class Move:
    """A change of lifecycle. approval: only for who may update packagerevisions/approval."""

    step: Step
    approval: bool


_DRAFT, _PROPOSED, _PUBLISHED, _GOING = Lifecycle
MOVES: Final[Mapping[tuple[Lifecycle, Lifecycle], Move]] = {
    (_DRAFT, _PROPOSED): Move(Step.PROPOSE, approval=False),
    (_PROPOSED, _DRAFT): Move(Step.REJECT, approval=True),
    (_PROPOSED, _PUBLISHED): Move(Step.APPROVE, approval=True),
    (_PUBLISHED, _GOING): Move(Step.PROPOSE_DELETION, approval=True),
    (_GOING, _PUBLISHED): Move(Step.KEEP, approval=True),
}

_WAY: Final[Mapping[Lifecycle, str]] = {
    _DRAFT: "a draft can only be proposed: set spec.lifecycle to Proposed",
    _PROPOSED: "a proposed revision is approved (Published) or rejected (Draft), nothing else",
    _PUBLISHED: "a published revision can only be proposed for deletion (DeletionProposed); copy it into a new draft "
    "to change it",
    _GOING: "a revision proposed for deletion is kept (Published) or deleted (DELETE)",
}

_NOT_SAVED: Final[Mapping[Lifecycle, str]] = {
    _PROPOSED: "it is Proposed: reject it first (spec.lifecycle: Draft), then its files can be changed",
    _PUBLISHED: "it is Published, and what is published never changes: copy it into a new draft (spec.source.copy)",
    _GOING: "it is Published and proposed for deletion; what is published never changes",
}

_NOT_DELETED: Final[Mapping[Lifecycle, str]] = {
    _PROPOSED: "it is Proposed: reject it first (spec.lifecycle: Draft), then delete it",
    _PUBLISHED: "published package revisions must be proposed for deletion by setting spec.lifecycle to "
    "DeletionProposed prior to deletion",
}


def move(name: str, now: Lifecycle, wanted: str) -> Move | None:
    """How a revision gets from `now` to `wanted`; None where it is there. Raises: RefusedError 422."""
    if wanted == now:
        return None
    found = MOVES.get((now, Lifecycle(wanted))) if wanted in tuple(Lifecycle) else None
    if found is None:
        raise refusals.wrong(name, "spec.lifecycle", wanted, _WAY[now])
    return found


def check_save(name: str, now: Lifecycle) -> None:
    """Raises: RefusedError 403."""
    if now is not Lifecycle.DRAFT:
        raise refusals.forbidden(name, _NOT_SAVED[now])


def check_delete(name: str, now: Lifecycle) -> None:
    """Raises: RefusedError 403."""
    if now in _NOT_DELETED:
        raise refusals.forbidden(name, _NOT_DELETED[now])


def check_not_self(name: str, user: str, draft: Draft | None) -> None:
    """Of spec.approval.forbidSelf: who proposed it, or changed it since another rejected it, does not approve it.

    Raises: RefusedError 403, also where that is not known, as of what was proposed in git.
    """
    if draft is None or not draft.proposed_by:
        why = "nobody knows who proposed it; reject it (spec.lifecycle: Draft), and let somebody propose it here"
    elif user == draft.proposed_by:
        why = f"User {user!r} proposed it"
    elif user in draft.authors:
        why = f"User {user!r} changed it"
    elif len(draft.authors) >= AUTHORS_MOST:
        why = f"{AUTHORS_MOST} users changed it, or more, who are not all remembered; reject it, and propose it again"
    else:
        return
    said = "its repository lets nobody approve what he made himself (spec.approval.forbidSelf)"
    raise refusals.forbidden(name, f"{said}: {why}")


def waiting(name: str, step: str) -> RefusedError:
    """409 for any other write while an operation runs."""
    why = f"{step} of it is being carried out; try again in a moment"
    return refusals.conflict(name, why, retry_after_s=1)
