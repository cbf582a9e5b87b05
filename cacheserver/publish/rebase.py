"""Brings a draft onto what was published since it began: whole files of three sides into one. Pure.

Of each path: where the draft has what it began with, the newest is taken; where the newest has what the draft began
with, the draft's stays; changes that are equal count once; a file that both changed differently is a conflict, and
then nothing is written. Lines are not merged: what two people meant with one file, one of them says. Called by
author.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from cacheserver.errors import Cause
from cacheserver.model import LABEL_LATEST, Digest
from cacheserver.publish import changes, refusals
from cacheserver.publish.package import File, Files
from cacheserver.publish.served import commit_of, digest_of
from cacheserver.slotted import slotted
from cacheserver.store.authored import Draft

_NAMED: Final = 20
"""Conflicts that a refusal names; it says how many more there are."""


@slotted(frozen=True)
class Onto:
    """What a draft is to be brought onto.

    revision, commit: of the newest published revision. branch_commit: the last change of the directory on the branch,
    where that was made by hand since; else empty. digest: of the files there. original: of those that the draft
    began with; None where they are not served any more, and then no file counts as unchanged.
    """

    revision: str
    commit: str
    branch_commit: str
    digest: Digest
    original: Digest | None

    def based(self, draft: Draft) -> Draft:
        """The draft's record once it holds all of this."""
        return replace(draft, base=self.commit, base_revision=self.revision, rebased=self.branch_commit)


def onto(manifests: Sequence[bytes], branch: str, draft: Draft) -> Onto | None:
    """Where a draft belongs by what is served of its package; None where it is there already.

    manifests: of all revisions of the package. branch: short name of the repository's.
    """
    served = [orjson.loads(value) for value in manifests]
    newest = next((each for each in served if each["metadata"].get("labels", {}).get(LABEL_LATEST) == "true"), None)
    here = next((each for each in served if _is_branch(each, branch)), None)
    by_hand = (
        here is not None
        and "publishedAt" not in here["status"]
        and (newest is None or digest_of(here) != digest_of(newest))
    )
    if by_hand and here is not None and (commit := commit_of(here)) and commit != draft.rebased:
        known = newest or {"spec": {}, "status": {}}
        return Onto(
            known["spec"].get("revision", ""), commit_of(known), commit, digest_of(here), _original(served, draft)
        )
    if newest is None or (commit_of(newest), newest["spec"]["revision"]) == (draft.base, draft.base_revision):
        return None
    return Onto(newest["spec"]["revision"], commit_of(newest), "", digest_of(newest), _original(served, draft))


def _original(served: Sequence[Mapping[str, Any]], draft: Draft) -> Digest | None:
    """Of what the draft began with. A tag that was moved since names other files."""
    if draft.rebased:
        found = [
            each for each in served if each["status"].get("revisionNumber") == -1 and commit_of(each) == draft.rebased
        ]
    else:
        began = draft.base_revision, draft.base
        found = [each for each in served if draft.base and (each["spec"]["revision"], commit_of(each)) == began]
    return digest_of(found[0]) if found else None


def _is_branch(manifest: Mapping[str, Any], branch: str) -> bool:
    return bool(manifest["spec"]["revision"] == branch and manifest["status"].get("revisionNumber") == -1)


def merged(name: str, original: Files, theirs: Files, ours: Files) -> dict[str, File]:
    """The files of the draft `name` with what changed in `theirs`. Raises: RefusedError 422 for each conflict."""
    found: dict[str, File] = {}
    conflicts: list[str] = []
    for path in sorted(theirs.keys() | ours.keys()):
        began, their, our = original.get(path), theirs.get(path), ours.get(path)
        kept = our if their in (our, began) else their
        if our not in (their, began) and their != began:
            conflicts.append(path)
        elif kept is not None:
            found[path] = kept
    if conflicts:
        raise refusals.invalid(name, [_conflict(path, theirs, ours) for path in conflicts[:_NAMED]] + _more(conflicts))
    return found


def _conflict(path: str, theirs: Files, ours: Files) -> Cause:
    did = "deleted there" if path not in theirs else "deleted in the draft" if path not in ours else "changed in both"
    why = (
        f"{did}, differently, since the draft began: save it as it is there, rebase, and change it then; or accept "
        f"that the draft replaces what is there with the annotation {changes.ANNOTATION_ACCEPT_BASE}"
    )
    return Cause("FieldValueInvalid", f"Conflict: {why}", f"spec.resources[{path}]")


def _more(conflicts: Sequence[str]) -> list[Cause]:
    left = len(conflicts) - _NAMED
    return [Cause("FieldValueInvalid", f"Conflict: {left} more files", "spec.resources")] if left > 0 else []
