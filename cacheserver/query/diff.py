"""What changed between the files of two revisions: by file, and line by line as a unified diff. Pure, and bounded.

Lines are compared by the greedy algorithm of E. Myers (An O(ND) Difference Algorithm and Its Variations, 1986) as far
as MOST_EDITS; files that differ in more are shown as taken away and put anew, and no answer costs more than MOST_STEPS.
Called by api/comparing.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cacheserver.slotted import slotted

MOST_EDITS: Final = 500
"""Lines of a file that are taken away and added. Beyond, nobody reads a difference line by line."""
MOST_STEPS: Final = 2_000_000
"""Of all files of an answer: some 0.5 s of a thread."""
CONTEXT: Final = 3
ADDED, REMOVED, CHANGED = "added", "removed", "changed"


@slotted(frozen=True)
class Change:
    """A file that differs. lines: of the unified diff, without the names; empty for a binary file."""

    path: str
    what: str
    binary: bool = False
    added: int = 0
    removed: int = 0
    lines: tuple[str, ...] = ()


@slotted(frozen=True)
class _Edit:
    """Lines old[start:end] become new[new_start:new_end]."""

    start: int
    end: int
    new_start: int
    new_end: int


class _Work:
    """Steps that are left for all files together."""

    def __init__(self) -> None:
        self.left = MOST_STEPS


def changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[Change]:
    """The files that differ, by path."""
    work, found = _Work(), []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before != after:
            found.append(_change(path, before, after, work))
    return found


def unified(found: Sequence[Change]) -> Iterator[str]:
    """Lines of a diff as `diff -u` writes it, which `patch -p1` takes; binary files are only named."""
    for change in found:
        old, new = (f"{side}/{_quoted(change.path)}" for side in "ab")
        if change.binary:
            yield f"Binary files {old} and {new} differ\n"
            continue
        yield f"--- {'/dev/null' if change.what == ADDED else old}\n"
        yield f"+++ {'/dev/null' if change.what == REMOVED else new}\n"
        yield from change.lines


def _quoted(path: str) -> str:
    """One line, whatever a path holds."""
    return path if path.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in path)


def _change(path: str, before: bytes | None, after: bytes | None, work: _Work) -> Change:
    what = ADDED if before is None else REMOVED if after is None else CHANGED
    old, new = (_lines(content) for content in (before, after))
    if old is None or new is None:
        return Change(path, what, binary=True)
    edits = _edits(old, new, work)
    removed, added = sum(e.end - e.start for e in edits), sum(e.new_end - e.new_start for e in edits)
    return Change(path, what, False, added, removed, tuple(_hunks(old, new, edits)))


def _lines(content: bytes | None) -> list[str] | None:
    """With their ends, and only broken where a patch breaks them; None for what is no text."""
    if content is None or not content:
        return []
    if b"\0" in content:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _edits(old: Sequence[str], new: Sequence[str], work: _Work) -> list[_Edit]:
    """From the first line to the last; as few lines as there can be, or all between what is equal at both ends."""
    start, most = 0, min(len(old), len(new))
    while start < most and old[start] == new[start]:
        start += 1
    end = 0
    while end < most - start and old[-1 - end] == new[-1 - end]:
        end += 1
    inner_old, inner_new = old[start : len(old) - end], new[start : len(new) - end]
    whole = [_Edit(start, start + len(inner_old), start, start + len(inner_new))]
    if not inner_old or not inner_new:
        return whole
    pairs = _matches(inner_old, inner_new, work)
    if pairs is None:
        return whole
    found: list[_Edit] = []
    at = to = 0
    for x, y in [*pairs, (len(inner_old), len(inner_new))]:
        if x > at or y > to:
            found.append(_Edit(start + at, start + x, start + to, start + y))
        at, to = x + 1, y + 1
    return found


def _matches(old: Sequence[str], new: Sequence[str], work: _Work) -> list[tuple[int, int]] | None:
    """Lines that stay, as pairs of places; None beyond the bounds."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for edits in range(min(len(old) + len(new), MOST_EDITS) + 1):
        trace.append(dict(furthest))
        work.left -= 2 * edits + 1
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            y = x - k
            while x < len(old) and y < len(new) and old[x] == new[y]:
                x, y = x + 1, y + 1
                work.left -= 1
            furthest[k] = x
            if x >= len(old) and y >= len(new):
                return _walked(trace, len(old), len(new))
        if work.left < 0:
            return None
    return None


def _walked(trace: Sequence[Mapping[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    """Back from the end, along what was furthest at each number of edits."""
    pairs: list[tuple[int, int]] = []
    for edits in range(len(trace) - 1, -1, -1):
        furthest, k = trace[edits], x - y
        down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
        before = k + 1 if down else k - 1
        from_x = furthest[before] if edits else 0
        from_y = from_x - before if edits else 0
        while x > from_x and y > from_y:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = from_x, from_y
    return pairs[::-1]


def _hunks(old: Sequence[str], new: Sequence[str], edits: Sequence[_Edit]) -> Iterator[str]:
    groups: list[list[_Edit]] = []
    for edit in edits:
        if groups and edit.start - groups[-1][-1].end <= 2 * CONTEXT:
            groups[-1].append(edit)
        else:
            groups.append([edit])
    for group in groups:
        start, end = max(group[0].start - CONTEXT, 0), min(group[-1].end + CONTEXT, len(old))
        new_start = group[0].new_start - (group[0].start - start)
        new_end = group[-1].new_end + (end - group[-1].end)
        yield f"@@ -{_range(start, end)} +{_range(new_start, new_end)} @@\n"
        at = start
        for edit in group:
            yield from (_written(" ", line) for line in old[at : edit.start])
            yield from (_written("-", line) for line in old[edit.start : edit.end])
            yield from (_written("+", line) for line in new[edit.new_start : edit.new_end])
            at = edit.end
        yield from (_written(" ", line) for line in old[at:end])


def _range(start: int, end: int) -> str:
    """As POSIX has it (diff, Diff -u Output Format): of no lines the line before, of one line no number."""
    count = end - start
    if count == 1:
        return str(start + 1)
    return f"{start + 1 if count else start},{count}"


def _written(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"
