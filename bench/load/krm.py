"""A git repository of KRM packages like nephio's: 77 in directories, most of them tagged; same seed, same bytes."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.load import words

# Measured on nephio's catalog (github.com/nephio-project/catalog, 2025): 77 packages, 65 of them on the branch, 124
# tagged revisions of 11 numbers and versions, 7 files of 4 KB each in the middle; one package of 1.69 MB.
_TAGGED: Final = 58
_WHEN: Final = "2026-01-01T00:00:00Z"
ENVIRONMENT: Final = {
    "PATH": os.environ.get("PATH", os.defpath),
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
       for what, value in (("NAME", "Bench"), ("EMAIL", "bench@example.com"), ("DATE", _WHEN))},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    packages: int = 77
    seed: int = 1


class Repository:
    """A bare repository that commits and tags are written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if not (path / "HEAD").exists():
            self.git("init", "--quiet", "--bare", "-b", "main")

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        """What it prints. Raises: BenchError."""
        ran = subprocess.run(
            ["git", "--git-dir", self.path, *arguments], input=stdin, capture_output=True, env=ENVIRONMENT, check=False
        )
        if ran.returncode:
            raise BenchError(f"git {arguments[0]}: {ran.stderr.decode()}")
        return ran.stdout.decode().strip()

    def commit(self, files: Mapping[str, bytes]) -> None:
        """One commit on main in which these files are new or changed (git-fast-import(1))."""
        lines = [b"commit refs/heads/main\ncommitter Bench <bench@example.com> 1767225600 +0000\ndata 1\nm\n"]
        if self.git("for-each-ref", "refs/heads/main"):
            lines.append(b"from refs/heads/main^0\n")
        for path, content in files.items():
            lines.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(content), content))
        self.git("fast-import", "--quiet", "--force", stdin=b"".join(lines))

    def tag(self, name: str) -> None:
        self.git("tag", name, "main")


def write(shape: Shape, path: Path) -> Repository:
    """All packages on main, most of them tagged once or more."""
    repository = Repository(path)
    rng = random.Random(shape.seed)
    names = [f"{words.name(rng, 1)}/{words.name(rng)}-{number}" for number in range(shape.packages)]
    repository.commit({path: raw for name in names for path, raw in _files(rng, name, "main").items()})
    for number, name in enumerate(names[: _TAGGED * shape.packages // 77 or 1]):
        for version in range(1, 2 + number % 3):
            repository.commit(_files(rng, name, f"v{version}"))
            repository.tag(f"{name}/v{version}")
    return repository


def _files(rng: random.Random, name: str, version: str) -> dict[str, bytes]:
    base = name.rpartition("/")[2]
    kptfile = (
        f"apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata:\n  name: {base}\ninfo:\n  description: {base} {version}\n"
    )
    files = {f"{name}/Kptfile": kptfile.encode()}
    for number in range(rng.randint(2, 10)):
        text = words.sentences(rng, rng.randint(1000, 8000)).replace("\n", " ")
        document = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c{number}\ndata:\n  text: '{text}'\n"
        files[f"{name}/c{number}.yaml"] = document.encode()
    return files
