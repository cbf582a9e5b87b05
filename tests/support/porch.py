"""Writes a git repository as Porch's own git code does, with plain git: its branches, tags, commits and `kpt:` lines.

Measured of porch at 74d82d5 (pkg/externalrepo/git: draft.go, git.go, annotation.go); docs/sources.md says what of it is
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.gitserver import GitRepository
from tests.support.krm import kptfile

INIT = {"type": "init", "init": {"description": "a package"}}


class Porch:
    """Works on a bare repository whose branch is main."""

    def __init__(self, git: GitRepository) -> None:
        self.git = git
        self._files: dict[str, dict[str, bytes]] = {"": {}}
        """Of each ref by its short name; of main under the empty one."""
        if not self._ref("main"):
            git.commit({"README.md": b"Created by porch\n"})
        self._files[""] = {"README.md": b"Created by porch\n"}

    def draft(self, package: str, workspace: str, files: Mapping[str, bytes] | None = None, task: Any = None) -> None:
        """Created, then saved once."""
        branch = f"drafts/{package}/{workspace}"
        written = {"Kptfile": kptfile(package), **(files or {})}
        before = {path: raw for path, raw in self._files[""].items() if not path.startswith(f"{package}/")}
        self._files[branch] = {**before, **{f"{package}/{path}": raw for path, raw in written.items()}}
        self.git.git("update-ref", f"refs/heads/{branch}", "refs/heads/main")
        for subject, did in (("Creating new empty revision", task or INIT), ("Rendering package", {"type": "render"})):
            said = {"package": package, "workspaceName": workspace, "revision": "0", "task": did}
            self.git.commit(self._files[branch], branch=branch, message=f"{subject}\n\nkpt:{json.dumps(said)}\n")

    def propose(self, package: str, workspace: str) -> None:
        here, there = (f"{kind}/{package}/{workspace}" for kind in ("drafts", "proposed"))
        self._files[there] = self._files.pop(here)
        self.git.git("update-ref", f"refs/heads/{there}", f"refs/heads/{here}")
        self.git.git("update-ref", "-d", f"refs/heads/{here}")

    def approve(self, package: str, workspace: str, number: int) -> str:
        """The commit that the tag and main are at."""
        branch = f"proposed/{package}/{workspace}"
        self._files[""] = self._files.pop(branch)
        said = {"package": package, "workspaceName": workspace, "revision": str(number)}
        message = f"Approving package revision {package}/{number}\n\nkpt:{json.dumps(said)}\n"
        parents = ("-p", "refs/heads/main", "-p", f"refs/heads/{branch}")
        commit = self.git.git("commit-tree", f"refs/heads/{branch}^{{tree}}", *parents, "-m", message)
        self.git.git("update-ref", "refs/heads/main", commit)
        self.git.tag(f"{package}/v{number}", commit)
        self.git.git("update-ref", "-d", f"refs/heads/{branch}")
        return commit

    def published(self, package: str, workspace: str, number: int, files: Mapping[str, bytes] | None = None) -> str:
        """A draft that is there all the way."""
        self.draft(package, workspace, files)
        self.propose(package, workspace)
        return self.approve(package, workspace, number)

    def propose_deletion(self, package: str, number: int) -> None:
        self.git.git("update-ref", f"refs/heads/deletionProposed/{package}/v{number}", f"refs/tags/{package}/v{number}")

    def _ref(self, branch: str) -> str:
        return self.git.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
