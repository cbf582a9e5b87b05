"""Commands in documentation, run as they are written: each `$ ` line of a `console` block, and the output below it.

What differs from run to run is compared by its shape: ages, times, digests, and the server's address. A line `...` is
any number of lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "127.0.0.1:8001"
"""What the pages call the server."""

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_KEPT = re.compile(r"(alias|cd|export|shopt) |[a-z]+=|[a-z]+\(\) ")
"""Commands that change the shell: every later command of the page begins with them."""
_VARYING = (
    (re.compile(r"\b\d+(\.\d+)? s\b"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)?(s|m|h|d)(\d+(s|m|h))?\b"), "AGE"),
    (re.compile(r"\b[0-9a-f]{40,64}\b"), "HASH"),
    (re.compile(r" +"), " "),
)


@dataclass(frozen=True, slots=True)
class Command:
    """One `$ ` line, and the lines below it up to the next one. line: where it is in its page."""

    line: int
    text: str
    output: Sequence[str]


def commands(page: Path) -> Iterator[Command]:
    """Every command of the page's console blocks, in order."""
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        found: list[tuple[int, str, list[str]]] = []
        for at, line in enumerate(block[1].splitlines()):
            if line.startswith("$ "):
                found.append((first + at, line[2:], []))
            else:
                found[-1][2].append(line)
        yield from (Command(line, command, output) for line, command, output in found)


def section(page: Path, title: str) -> range:
    """Lines of the section with this heading, subsections included."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = lines.index(title)
    level = title.partition(" ")[0]
    end = next((at for at in range(first + 1, len(lines)) if lines[at].startswith(f"{level} ")), len(lines))
    return range(first + 1, end + 1)


def serve_flags(page: Path, directory: Path) -> Sequence[str]:
    """The flags of the page's `cacheserver serve` in an `sh` block, run in `directory`."""
    found = re.search(r"^```sh\ncacheserver serve (.*)\n```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{page.name} starts no server"
    return found[1].replace("$PWD", str(directory)).split()


class Shell:
    """Runs a page's commands in `directory`, as somebody who types them one after another."""

    def __init__(self, directory: Path, address: str = ADDRESS) -> None:
        self._directory = directory
        self._address = address
        self._kept: list[str] = ["shopt -s expand_aliases"]
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CACHESERVER_", "GIT_"))},
            "HOME": str(directory),
            "KUBECONFIG": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, command: Command) -> Sequence[str]:
        """What it prints, both streams, as lines. Fails with that where it does not end with 0."""
        script = "\n".join((*self._kept, "set -o pipefail", command.text))
        done = subprocess.run(
            ["bash", "-c", script.replace(ADDRESS, self._address)],
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        # What a page shows of a refusal is an answer too: its command may fail, if the page says how.
        assert done.returncode == 0 or command.output, f"line {command.line}: {command.text}\n{done.stdout}"
        if _KEPT.match(command.text):
            self._kept.append(command.text)
        return done.stdout.replace(self._address, ADDRESS).replace(f"{self._directory}/", "/srv/").splitlines()


def alike(said: Sequence[str], shown: Sequence[str]) -> bool:
    """Whether a command said what its page shows."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(_plain(line)) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{_plain(line)}\n" for line in said)) is not None


def _plain(line: str) -> str:
    for varying, name in _VARYING:
        line = varying.sub(name, line)
    return line.rstrip()
