"""Builds KRM packages: Kptfiles, and git repositories as kpt and Porch leave them behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.gitserver import GitRepository


def kptfile(name: str = "pkg", **parts: Any) -> bytes:
    """A Kptfile; `parts` are its top-level fields (`metadata` is merged with the name)."""
    metadata = {"name": name, **parts.pop("metadata", {})}
    return json.dumps({"apiVersion": "kpt.dev/v1", "kind": "Kptfile", "metadata": metadata, **parts}).encode()


def annotated(package: str, workspace: str, revision: str = "1", *, nonce: str = "") -> str:
    """A commit message as Porch writes it when revision v1 is approved. nonce: of our own trailer."""
    said = json.dumps({"package": package, "workspaceName": workspace, "revision": revision})
    return f"Approve {package}\n\nkpt:{said}\n" + (f"Cacheserver-Nonce: {nonce}\n" if nonce else "")


class KRMRepository(GitRepository):
    """A bare repository whose branch `main` holds `files`; each method that writes makes one commit."""

    def __init__(self, path: Path, *, object_format: str = "sha1") -> None:
        super().__init__(path, object_format=object_format)
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, str] = {}

    def package(
        self, path: str, content: str = "", files: Mapping[str, bytes] | None = None, *, message: str = "m"
    ) -> str:
        """Write (or rewrite) a package with a Kptfile, a config.yaml that says `content`, and `files`; the commit."""
        base = f"{path}/" if path else ""
        name = path.rpartition("/")[2] or "root"
        self.files[f"{base}Kptfile"] = kptfile(name, info={"description": f"{name} {content}".strip()})
        self.files[f"{base}config.yaml"] = f"value: {content}\n".encode()
        self.files |= {f"{base}{file}": raw for file, raw in (files or {}).items()}
        return self.save(message)

    def write(self, files: Mapping[str, bytes], *, message: str = "m", modes: Mapping[str, str] | None = None) -> str:
        self.files |= files
        self.modes |= modes or {}
        return self.save(message)

    def remove(self, path: str) -> str:
        self.files = {name: raw for name, raw in self.files.items() if name != path and not name.startswith(f"{path}/")}
        return self.save("remove")

    def save(self, message: str = "m") -> str:
        return self.commit(self.files, modes=self.modes, message=message)

    def branch(self, name: str, target: str = "main") -> None:
        self.git("update-ref", f"refs/heads/{name}", self.git("rev-parse", target))

    def delete(self, ref: str) -> None:
        """A full name: `refs/tags/app/v1`."""
        self.git("update-ref", "-d", ref)
