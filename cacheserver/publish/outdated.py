"""Whether a draft is of an older revision than the newest of its package, as a condition that tells its author. Pure.

What decides is the approval, which asks git (git/plan.py); this is so that nobody has to try. Called by ingest, where a
sync sees another newest revision.
"""

from __future__ import annotations

from typing import Final

from cacheserver.publish.outcome import Condition
from cacheserver.store.authored import Draft

OUTDATED: Final = "Outdated"


def outdated(draft: Draft, newest: str, commit: str) -> Condition | None:
    """newest, commit: the package's newest published revision; None: the draft is of that one, or of a newer."""
    from cacheserver.publish.git.plan import is_behind  # noqa: PLC0415 - where nothing is drafted, git is not needed

    moved = newest == draft.base_revision and commit != draft.base
    if not moved and not is_behind(newest, draft.base_revision):
        return None
    why = (
        f"{newest} was {'moved' if moved else 'published'} since this draft began from "
        f"{draft.base_revision or 'nothing'}: rebase it before it is proposed"
    )
    return Condition(OUTDATED, true=True, reason="NewerRevision", message=why)
