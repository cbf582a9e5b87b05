"""What authors were answered, and what must be true of it ever after: nothing answered is lost, nothing is made up.

Each save writes a file of a path that nobody else ever writes, so that its fate can be told: it is in the package from
its answer on, unless somebody asked to delete it. Whatever was sent and not answered may have happened or not.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.history import History

FILE = "saved-"
"""How the paths of saves begin."""
VIEW = "packagerevisionresources"


@dataclass(eq=False)
class Life:
    """One object from its making to its end; another one may have its name later.

    kept: paths of saves that were answered. dropped: paths that somebody asked to delete.
    labels: of each author the values that his label may have: the last answered, and what was sent behind it.
    deletions: that were sent and not refused. gone: one was answered.
    """

    name: str
    uid: str
    kept: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    labels: dict[str, list[str]] = field(default_factory=dict)
    published: str = ""
    deletions: int = 0
    gone: bool = False

    @property
    def may_be_gone(self) -> bool:
        return self.deletions > 0


@dataclass
class Ledger:
    """Shared by all authors of a run. steps: what was asked and how it was answered, for the report."""

    sent: dict[str, bytes] = field(default_factory=dict)
    lives: dict[str, Life] = field(default_factory=dict)
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    may_be_made: set[str] = field(default_factory=set)
    done: int = 0

    def life(self, manifest: Mapping[str, Any]) -> Life:
        """Of a PackageRevision as it was answered."""
        uid, name = manifest["metadata"]["uid"], manifest["metadata"]["name"]
        return self.lives.setdefault(uid, Life(name, uid))

    def answered(self, manifest: dict[str, Any]) -> Life:
        """A PackageRevision, after a step that was answered 200 or 201."""
        self.answers.append((manifest["metadata"]["name"], manifest))
        life = self.life(manifest)
        if manifest["spec"]["lifecycle"] in ("Published", "DeletionProposed"):
            assert life.published in ("", manifest["spec"]["revision"]), "a revision has another number than before"
            life.published = manifest["spec"]["revision"]
        return life

    def judge(self, served: Mapping[str, dict[str, Any]], files: Mapping[str, Mapping[str, bytes]]) -> None:
        """served: PackageRevisions by name as they are at the end; files: of each, by name."""
        here = {manifest["metadata"]["uid"]: name for name, manifest in served.items()}
        for uid, life in self.lives.items():
            if uid not in here:
                assert life.gone or life.may_be_gone, f"{life.name} is gone, and nobody deleted it"
                continue
            assert not life.gone, f"{life.name} was deleted, and is there again"
            self._judge_one(life, served[life.name], files[life.name])
        for name, manifest in served.items():
            known = manifest["metadata"]["uid"] in self.lives or name in self.may_be_made
            assert known, f"{name} is there, and nobody made it"
        for name, found in files.items():
            for path, content in found.items():
                if path.startswith(FILE):
                    assert content == self.sent[path], f"{name}: {path} has bytes that nobody sent"

    def _judge_one(self, life: Life, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        lost = life.kept - life.dropped - files.keys()
        assert not lost, f"{life.name}: saved, answered and lost: {sorted(lost)}"
        if life.published:
            assert manifest["spec"]["revision"] == life.published, f"{life.name} was answered as {life.published}"
            assert manifest["spec"]["lifecycle"] in ("Published", "DeletionProposed")
        labels = manifest["metadata"].get("labels", {})
        for author, allowed in life.labels.items():
            assert labels.get(author, "") in allowed, f"{life.name}: the label {author} is not what was answered"

    def judge_history(self, history: History) -> None:
        """Every object that was answered stood so in etcd, at the version that it was answered with."""
        steps: dict[tuple[str, int], dict[str, Any]] = {}
        for step in history.steps:
            if step.new is not None and step.new["kind"] == "PackageRevision":
                steps[step.new["metadata"]["name"], step.revision] = step.new
        for name, manifest in self.answers:
            at = int(manifest["metadata"]["resourceVersion"])
            stood = steps.get((name, at))
            assert stood is not None, f"{name} was answered at {at}, and never stood so in etcd"
            metadata = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
            assert {**manifest, "metadata": metadata} == stood, f"{name} was answered otherwise than it stood at {at}"

    def table(self) -> str:
        """How often each step was answered how."""
        return "\n".join(f"  {step:16} {outcome:24} {count:5}" for (step, outcome), count in sorted(self.steps.items()))


def uid_of_files(uid: str) -> str:
    """Of the PackageRevisionResources of a PackageRevision."""
    return str(uuid.uuid5(uuid.UUID(uid), VIEW))
