"""`.indexignore`: which files of a tree are not catalog. gitignore's syntax; pure functions on paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cacheserver.slotted import slotted

FILE = ".indexignore"
_HIDDEN = ".*/"
"""Ours: what every tree's first line would be. Checkouts have .github and .venv, with thousands of files that are no
catalog; OLM's loader reads them, and fails on them. `!.NAME/` in an ignore file takes a folder in."""
_MOST_PATTERNS = 1000
_LONGEST_PATTERN = 1024


@slotted(frozen=True)
class _Pattern:
    below: str
    """Directory that holds the file, with a trailing slash; empty for the root."""
    regex: re.Pattern[str]
    keep: bool


def kept(files: Iterable[str], ignores: Mapping[str, str]) -> list[str]:
    """`files` in their order, less the ignored ones, those in hidden folders, and the ignore files themselves.

    ignores: path of an ignore file -> its text. The last matching pattern decides, those of deeper directories after
    those above them. A file is asked about as a file, so `tmpl/` works through its parents (OLM's loader).
    Raises: ValueError for a file with too many or too long patterns.
    """
    patterns = [pattern for path in sorted(ignores) for pattern in _parse(path, ignores[path])]
    patterns.reverse()
    patterns.append(_Pattern("", _compile(_HIDDEN), keep=False))
    return [path for path in files if path.rpartition("/")[2] != FILE and _kept(path, patterns)]


def hidden(path: str) -> bool:
    """Whether it lies in a folder whose name begins with a dot."""
    return (path.startswith(".") and "/" in path) or "/" in path.partition("/.")[2]


def _kept(path: str, last_first: list[_Pattern]) -> bool:
    for pattern in last_first:
        if path.startswith(pattern.below) and pattern.regex.match(path, len(pattern.below)):
            return pattern.keep
    return True


def _parse(path: str, text: str) -> list[_Pattern]:
    below = path[: -len(FILE)]
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) > _MOST_PATTERNS or any(len(line) > _LONGEST_PATTERN for line in lines):
        raise ValueError(f"{path}: at most {_MOST_PATTERNS} patterns of {_LONGEST_PATTERN} characters")
    return [_Pattern(below, _compile(line.removeprefix("!")), line.startswith("!")) for line in lines]


def _compile(pattern: str) -> re.Pattern[str]:
    """gitignore(5): a slash before the end anchors, `**` spans directories, a final slash means a directory."""
    directory = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    anchored = "/" in pattern
    body = _translate(pattern.lstrip("/"))
    # Whatever lies under a match is matched; a directory pattern matches only what lies under.
    return re.compile(f"{'' if anchored else '(?:.*/)?'}{body}{'/.+' if directory else '(?:/.*)?'}\\Z", re.DOTALL)


_ANY_DEPTH = re.compile(r"(?:\A|(?<=/))\*\*/")
_TOKEN = re.compile(r"(?P<tail>/\*\*\Z)|(?P<star>\*+)|(?P<any>\?)|\\(?P<escaped>.)|(?P<set>\[[!^]?\]?[^\]]*\])")


def _translate(pattern: str) -> str:
    """The pattern as a regular expression that never tries one place twice: `*a*a*a*b` is not a bomb.

    What is between two `**/`, or two `*`, is taken at the first place where it fits and never moved: the wildcard
    behind it reaches all that a later place would.
    """
    first, *deeper = _ANY_DEPTH.split(pattern)
    out = [_segment(first)]
    out += [f"(?>(?:[^/]*/)*?{_segment(middle)})" for middle in deeper[:-1]]
    out += [f"(?:.*/)?{_segment(last)}" for last in deeper[-1:]]
    return "".join(out)


def _segment(pattern: str) -> str:
    """A pattern without `**/`. Elsewhere several asterisks are one (gitignore(5))."""
    parts = [""]  # between the stars
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if not token:
            parts[-1] += re.escape(pattern[at])
            at += 1
            continue
        at = token.end()
        if token["star"]:
            parts.append("")
        elif token["tail"]:
            parts[-1] += "/.+"
        elif token["any"]:
            parts[-1] += "[^/]"
        elif token["set"]:
            parts[-1] += _set(token["set"])
        else:
            parts[-1] += re.escape(token["escaped"] or "")
    first, *starred = parts
    return first + "".join(f"(?>[^/]*?{part})" for part in starred[:-1]) + "".join(f"[^/]*{p}" for p in starred[-1:])


def _set(written: str) -> str:
    inner = written[1:-1]
    negated = inner[:1] in {"!", "^"}
    body = (inner[1:] if negated else inner).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    expression = f"[{'^/' if negated else ''}{body}]"
    try:
        re.compile(expression)
    except re.error:
        return re.escape(written)  # `[z-a]` matches itself, as in git
    return expression
