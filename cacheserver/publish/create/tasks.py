"""How a package revision begins: as a new package, as a clone of another's revision, as a copy of one of its own.

Files in memory in, files in memory out; what is written is what Porch writes (docs/authoring.md). Pure; to be called in
a thread, since it reads YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.krm.facts import KPTFILE
from cacheserver.errors import RefusedError
from cacheserver.publish import kptfile, refusals
from cacheserver.publish.package import File, Files
from cacheserver.slotted import slotted

CONTEXT: Final = "package-context.yaml"
_CONTEXT_NAME: Final = "kptfile.kpt.dev"  # kpt, internal/builtins/pkg_context.go
_LOCAL: Final = {"config.kubernetes.io/local-config": "true"}
_COMMENTED_BYTES: Final = 1 << 20
"""Of one YAML file that gets merge comments; with all of them four times as much. What is more stays as it is."""

# kpt, internal/pkg/kptpkg/init.go: readmeTemplate.
_README: Final = """# {name}

## Description
{description}

## Usage

### Fetch the package
`kpt pkg get REPO_URI[.git]/PKG_PATH[@VERSION] {name}`
Details: https://kpt.dev/reference/cli/pkg/get/

### View package content
`kpt pkg tree {name}`
Details: https://kpt.dev/reference/cli/pkg/tree/

### Apply the package
```
kpt live init {name}
kpt live apply {name} --reconcile-timeout=2m --output=table
```
Details: https://kpt.dev/reference/cli/live/
"""


@slotted(frozen=True)
class Init:
    """A new package. package: its path in its repository."""

    package: str
    description: str = ""
    keywords: tuple[str, ...] = ()
    site: str = ""

    def files(self) -> dict[str, File]:
        """Kptfile, README.md and package-context.yaml."""
        description = self.description or f"{self.package} description"
        about: dict[str, Any] = {}
        if self.site:
            about["site"] = self.site
        about["description"] = description
        if self.keywords:
            about["keywords"] = list(self.keywords)
        top = {
            "apiVersion": "kpt.dev/v1",
            "kind": KPTFILE,
            "metadata": {"name": self.package, "annotations": dict(_LOCAL)},
            "info": about,
        }
        return {
            KPTFILE: File(kptfile.written(top)),
            "README.md": File(_README.format(name=self.package, description=description).encode()),
            CONTEXT: File(_context({"name": "example"})),
        }

    def task(self) -> dict[str, Any]:
        """As Porch has it: api/porch/v1alpha1, Task."""
        init = {"description": self.description or f"{self.package} description"}
        if self.keywords:
            init["keywords"] = list(self.keywords)  # type: ignore[assignment] # JSON
        if self.site:
            init["site"] = self.site
        return {"type": "init", "init": init}


@slotted(frozen=True)
class Clone:
    """Another package's revision as the beginning of `package`.

    origin: where that lies in git (Lock's fields), empty where it does not. deployment: the package is to be run, so it
    gets its context. source: name of the revision.
    """

    package: str
    source: str
    origin: Mapping[str, str]
    deployment: bool = False

    def files(self, source: Files) -> dict[str, File]:
        """Raises: RefusedError where the source's Kptfile cannot be changed."""
        found = _commented(source)
        found[KPTFILE] = File(self._kptfile(source), source[KPTFILE].executable)
        if self.deployment:
            found = {path: file for path, file in found.items() if not _is_context(path, file)}
            found[CONTEXT] = File(_context({"name": self.package, "package-path": self.package}))
        return found

    def _kptfile(self, source: Files) -> bytes:
        # kpt, pkg/lib/kptops/clone.go: the upstream of the source goes, with its strategy.
        fields: dict[kptfile.Path, Any] = {("metadata", "name"): self.package, ("upstream",): None}
        fields[("upstreamLock",)] = None
        if self.origin:
            repo = self.origin["repo"]
            git = {
                "repo": repo if repo.endswith(".git") else f"{repo}.git",
                "directory": self.origin.get("directory", "").strip("/"),
                "ref": self.origin.get("ref", ""),
            }
            fields[("upstream",)] = {"type": "git", "git": git}
            fields[("upstreamLock",)] = {"type": "git", "git": {**git, "commit": self.origin.get("commit", "")}}
        try:
            return kptfile.set_fields(source[KPTFILE].content, fields)
        except (DocumentError, KeyError) as exc:
            why = f"its Kptfile cannot be changed: {exc}"
            raise refusals.wrong("", "spec.source.clone.revision", self.source, why) from exc

    def task(self) -> dict[str, Any]:
        """As Porch has it: api/porch/v1alpha1, Task."""
        return {"type": "clone", "clone": {"upstreamRef": {"upstreamRef": {"name": self.source}}}}


@slotted(frozen=True)
class Copy:
    """An earlier revision of the same package, as it is. source: its name."""

    source: str

    def task(self) -> dict[str, Any]:
        """As Porch has it: api/porch/v1alpha1, Task."""
        return {"type": "edit", "edit": {"sourceRef": {"name": self.source}}}


Start = Init | Clone | Copy


def with_gates(files: Files, gates: tuple[str, ...], name: str) -> dict[str, File]:
    """The files with these readiness gates in the Kptfile. Raises: RefusedError."""
    try:
        wanted = [{"conditionType": gate} for gate in gates] or None
        raw = kptfile.set_fields(files[KPTFILE].content, {("info", "readinessGates"): wanted})
    except (DocumentError, KeyError) as exc:
        raise _unchangeable(name, exc) from exc
    return {**files, KPTFILE: File(raw, files[KPTFILE].executable)}


def _unchangeable(name: str, exc: Exception) -> RefusedError:
    return refusals.wrong(name, "spec.readinessGates", "", f"the Kptfile, which holds them, cannot be changed: {exc}")


def _context(data: Mapping[str, str]) -> bytes:
    return kptfile.written(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": _CONTEXT_NAME, "annotations": dict(_LOCAL)},
            "data": dict(data),
        }
    )


def _is_context(path: str, file: File) -> bool:
    """A file that holds a package's context and nothing else."""
    if not path.endswith((".yaml", ".yml")) or len(file.content) > _COMMENTED_BYTES:
        return False
    if _CONTEXT_NAME.encode() not in file.content:
        return False
    try:
        found = kptfile.documents(file.content)
    except yaml.YAMLError:
        return False
    return [(each.get("kind"), each.get("name")) for each in found] == [("ConfigMap", _CONTEXT_NAME)]


def _commented(source: Files) -> dict[str, File]:
    found = dict(source)
    room = 4 * _COMMENTED_BYTES
    for path, file in sorted(source.items()):
        size = len(file.content)
        if path.endswith((".yaml", ".yml")) and size <= min(room, _COMMENTED_BYTES):
            room -= size
            try:
                found[path] = File(kptfile.with_merge_comments(file.content), file.executable)
            except (yaml.YAMLError, UnicodeDecodeError):
                continue  # whoever wrote it is told by who reads it
    return found
