"""What git's complaints mean: its exit status says only that it failed, so the text decides (LC_ALL=C). Pure."""

from __future__ import annotations

import re
import signal
from typing import Final

from cacheserver.errors import (
    SourceAuthenticationError,
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
)
from cacheserver.security.distrust import remedy
from cacheserver.sources.credentials import scrub


class MirrorDamagedError(SourceInvalidError):
    """Our own copy cannot be read; it is rebuilt from the remote."""

    def of_remote(self) -> SourceInvalidError:
        """The same where it cannot be our copy: none was read, or one made anew came out no better."""
        return SourceInvalidError(str(self).replace(_OURS, _THEIRS, 1))


class ObjectFormatError(MirrorDamagedError):
    """Our own copy names objects by another hash than the remote; it is made anew with the other one."""


_UNTRUSTED: Final = "its certificate is not trusted"
_OURS: Final = "our copy of the repository is damaged"
_THEIRS: Final = "the repository is damaged where it is kept; repair it there with `git fsck`, or push it anew"


# Of our own copy: what the other side complains of comes behind `remote:`.
_DAMAGE: Final = (
    r"^(?!remote:).*(bad object|corrupt|not a git repository|unable to read|unable to unpack|bad tree|missing blob|"
    r"missing tree|missing commit|cannot be accessed|does not match index|bad config|inflate: data|bad signature|"
    r"[Ii]nvalid SHA1|loose object|premature end of pack|bad revision|cannot lock ref|shallow (file|line))"
)

# First match wins: git wraps one failure into the next, and the specific words are beside general ones.
_MEANINGS: Final[tuple[tuple[tuple[str, ...], type[SourceError], str], ...]] = (
    (("returned error: 429",), SourceRateLimitedError, "the server asks us to come back later"),
    (
        ("Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED"),
        SourceAuthenticationError, "the host's key is not in known_hosts, or differs; check it and correct known_hosts",
    ),
    (
        ("Authentication failed", "could not read Username", "could not read Password", "returned error: 40[13]",
         r"Permission denied \(", "terminal prompts disabled", "invalid credentials", "Load key .*(error|invalid)"),
        SourceAuthenticationError, "the server wants other credentials, or any",
    ),
    # git, send-pack.c and connect.c. What an empty repository names objects by is told to nobody before.
    (("repository's hash algorithm", "mismatched algorithms"), ObjectFormatError, "it names objects by another hash"),
    (("transport '.*' not allowed",), SourceInvalidError, "the remote leads to a transport that is not allowed"),
    (("dubious ownership",), SourceError, "it belongs to another user; change its owner, or give a bundle"),
    (
        ("couldn't find remote ref", "Remote branch .* not found", "not our ref", "unadvertised object"),
        SourceNotFoundError, "the remote has no such branch, tag or commit",
    ),
    (
        ("[Rr]epository .*not found", "does not appear to be a git repository", "returned error: 404", "does not exist",
         "not found: did you run", "no such repository", "access denied or repository not exported"),
        SourceNotFoundError, "there is no such repository, or it is not shown to us",
    ),
    (("certificate", "SSL"), SourceNetworkError, _UNTRUSTED),
    ((_DAMAGE,), MirrorDamagedError, _OURS),
    (("No space left", "Disk quota"), SourceError, "the disk of the cache is full"),
    (
        ("[Cc]ould not resolve", "Connection (refused|reset|closed|timed out)", "timed out", "[Tt]imeout",
         "unable to access", "early EOF", "RPC failed", "hung up", "unreachable", "Couldn't connect",
         "Failed to connect", "unexpected disconnect", "Operation too slow", r"returned error: 5\d\d", "kex_exchange"),
        SourceNetworkError, "the server cannot be reached",
    ),
)  # fmt: skip


# Of limits that git's processes run under (git_command). git says first what failed, then what it asked for; a process
# that the kernel ended is named by its parent. What the other side complains of comes behind `remote:`.
_EXCEEDED: Final = {
    "git_memory_bytes": r"[Oo]ut of memory|Cannot allocate memory|mmap failed|unable to create (async )?thread",
    "git_cpu_s": rf"died of signal ({signal.SIGXCPU.value}|{signal.SIGKILL.value})\b",
    "total_bytes": rf"File too large|died of signal {signal.SIGXFSZ.value}\b",
}
_SIGNALS: Final = {
    -signal.SIGXCPU: "git_cpu_s", -signal.SIGKILL: "git_cpu_s", -signal.SIGXFSZ: "total_bytes",
}  # fmt: skip


def exceeded(complaint: str, status: int, *, local: bool = False) -> str:
    """The cap (a field of Limits) that ended git with this exit status; empty where it was none.

    local: the other side is a process of ours too, under the same limits (file://).
    """
    if status in _SIGNALS:
        return _SIGNALS[status]
    for cap, pattern in _EXCEEDED.items():
        if re.search(f"^{'' if local else '(?!remote:)'}.*({pattern})", complaint, re.MULTILINE):
            return cap
    # fetch-pack.c reads what index-pack prints before it asks how that ended: only a signal leaves it without a word.
    said = re.findall("^(?:fatal|error):.*", complaint, re.MULTILINE)
    return "git_cpu_s" if len(said) == 1 and "invalid index-pack output" in said[0] else ""


def error_for(complaint: str, where: str, secrets: tuple[str, ...]) -> SourceError:
    """The error for what git wrote to stderr: where, what it means, and the scrubbed text itself."""
    said = scrub(_telling(complaint), secrets)
    for patterns, kind, meaning in _MEANINGS:
        if re.search("|".join(patterns), complaint, re.MULTILINE):
            if meaning is _UNTRUSTED:
                meaning = f"{meaning}; {remedy(complaint, 'give the authority that signed it')}"
            return kind(f"{where}: {meaning} (git: {said})")
    return SourceError(f"{where}: git failed: {said or 'without a word'}")


def _telling(complaint: str) -> str:
    """The lines that name a fault; all of them where none does."""
    lines = [line for line in complaint.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"(fatal|error|remote|ssh|.*Permission denied|.*Host key)", line)]
    return "; ".join(marked or lines)
