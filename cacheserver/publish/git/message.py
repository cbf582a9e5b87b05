"""What the commits of packages say: who made them, and the lines that Porch and we read again. Pure.

Porch writes one line `kpt:{json}` into the message of each commit (porch, pkg/externalrepo/git/annotation.go); trailers
are of git-interpret-trailers(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from cacheserver.slotted import slotted

NONCE: Final = "Cacheserver-Nonce"
OPERATION: Final = "Cacheserver-Operation"
_LONGEST_PERSON: Final = 200
_NAMED: Final = re.compile(r"\s*([^<>]*?)\s*<([^<>]*)>\s*\Z")
_SUBJECTS: Final = {
    "init": "Creating new empty revision",
    "clone": "Creating new revision by cloning",
    "edit": "Creating new revision by copying previous revision",
    "upgrade": "Upgrading revision",
}
"""Porch, pkg/externalrepo/git/draft.go and git.go."""
_KPT: Final = "kpt:"
_RENDER: Final = "Rendering package"
_RENDER_TASK: Final = {"type": "render"}


AUTHOR: Final = "local <local@localhost>"
COMMITTER: Final = "cacheserver <cacheserver@localhost>"
"""As the settings of these names begin with."""


@slotted(frozen=True)
class Person:
    """An author or committer. Written by whoever authenticates: of() makes it safe for a commit's header."""

    name: str
    mail: str

    @classmethod
    def of(cls, user: str, otherwise: str = "") -> Person:
        """Of a Kubernetes user, or of `Name <mail>`; of `otherwise` where it says nothing.

        As Porch does, a name that is no address stands for the address as well.
        """
        named = _NAMED.match(user)
        name = _clean(named[1] if named else user)
        mail = _clean(named[2] if named else user)
        if not name and not mail:
            return cls.of(otherwise, COMMITTER)
        return cls(name or mail, mail.replace(" ", "") or name.replace(" ", ""))

    def __str__(self) -> str:
        return f"{self.name} <{self.mail}>"


def _clean(text: str) -> str:
    """Without what would end a line or a name in a commit's header, or begin with what git strips."""
    kept = "".join(char for char in text if char.isprintable() and char not in "<>").encode(errors="ignore").decode()
    return " ".join(kept.split())[:_LONGEST_PERSON].strip(" .,:;\"'\\")


def draft(directory: str, workspace: str, task: str, trailers: Iterable[tuple[str, str]], *, first: bool) -> str:
    """Of a draft's commit. task: JSON of how it began, which the first one tells."""
    began: Any = orjson.loads(task) if task and first else _RENDER_TASK
    kind = began.get("type", "") if isinstance(began, dict) else ""
    subject = _SUBJECTS.get(kind, _RENDER)
    said = {"package": directory, "workspaceName": workspace, "revision": "0", "task": began}
    return _message(subject, said, trailers)


def approval(directory: str, workspace: str, revision: str, trailers: Iterable[tuple[str, str]]) -> str:
    """Of the commit that a tag stands for. revision: v3; Porch writes the number."""
    number = revision.removeprefix("v")
    said = {"package": directory, "workspaceName": workspace, "revision": number}
    return _message(f"Approving package revision {directory}/{number}", said, trailers)


def _message(subject: str, said: Any, trailers: Iterable[tuple[str, str]]) -> str:
    kpt = f"{_KPT}{orjson.dumps(said).decode()}"
    told = "".join(f"{name}: {_line(value)}\n" for name, value in trailers if value)
    return f"{subject}\n\n{kpt}\n" + (f"\n{told}" if told else "")


def _line(value: str) -> str:
    """As one line. What begins `kpt:` elsewhere than at a line's begin means nothing."""
    return " ".join("".join(char if char.isprintable() else " " for char in value).split())[:_LONGEST_PERSON]


def numbers(messages: Iterable[str], directory: str) -> list[int]:
    """The numbers of revisions of a package that were ever published, as the messages of commits tell."""
    said = [revision.removeprefix("v") for message in messages for revision in _revisions(message, directory)]
    return [int(number) for number in said if number.isascii() and number.isdigit() and len(number) <= 9]


def revisions(messages: Iterable[str], directory: str) -> set[str]:
    """What revisions of a package were ever called, without a leading v, as the messages of commits tell."""
    return {revision.removeprefix("v") for message in messages for revision in _revisions(message, directory)}


def speaks_of(message: str, directory: str) -> bool:
    """Whether the commit was made for the package in this directory."""
    return bool(_revisions(message, directory))


def _revisions(message: str, directory: str) -> list[str]:
    """What the lines of a message say of the package in this directory: its revision, or nothing."""
    found = []
    for line in message.splitlines():
        if line.startswith(_KPT):
            try:
                said = orjson.loads(line.removeprefix(_KPT))
            except orjson.JSONDecodeError:
                continue
            if isinstance(said, dict) and said.get("package") == directory:
                found.append(str(said.get("revision", "")))
    return found
