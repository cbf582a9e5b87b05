"""Differences of files: `patch` makes the new ones of the old ones with them, and no pair of files costs much."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheserver.query.diff import MOST_EDITS, Change, changes, unified


def text(found: list[Change]) -> str:
    return "".join(unified(found))


def test_a_changed_line_stands_among_three_others() -> None:
    old = "".join(f"{at}\n" for at in range(10)).encode()
    found = changes({"a": old}, {"a": old.replace(b"5\n", b"five\nmore\n")})
    assert text(found) == "--- a/a\n+++ b/a\n@@ -3,7 +3,8 @@\n 2\n 3\n 4\n-5\n+five\n+more\n 6\n 7\n 8\n"
    assert [(change.what, change.added, change.removed) for change in found] == [("changed", 2, 1)]


def test_files_come_and_go_and_binary_ones_are_named() -> None:
    found = changes({"gone": b"x\n", "same": b"=", "b": b"\0"}, {"new": b"y", "same": b"=", "b": b"\xff"})
    assert [(change.path, change.what, change.binary) for change in found] == [
        ("b", "changed", True),
        ("gone", "removed", False),
        ("new", "added", False),
    ]
    assert text(found) == (
        "Binary files a/b and b/b differ\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+y\n\\ No newline at end of file\n"
    )


def test_a_path_is_one_line() -> None:
    assert text(changes({}, {"a\n+++ b/x": b"1\n"})).splitlines()[1] == "+++ b/a\\u000a+++ b/x"


_files = st.text("ab\n", max_size=30)


def applied(old: str, found: list[Change]) -> str:
    """What a patch makes of it, by the plain meaning of its lines."""
    lines = old.split("\n")
    source = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    out: list[str] = []
    at = 0
    body = [line for change in found for line in change.lines]
    for line in body:
        if line.startswith("@@"):
            first = line.split()[1][1:]
            start = int(first.partition(",")[0])
            start -= 0 if first.endswith(",0") else 1
            out += source[at:start]
            at = start
            continue
        content = line[1:].removesuffix("\n\\ No newline at end of file\n")
        if line[0] in " -":
            assert source[at] == content
            at += 1
        if line[0] in " +":
            out.append(content)
    return "".join(out + source[at:])


@given(_files, _files)
def test_a_difference_makes_the_new_of_the_old(old: str, new: str) -> None:
    assert applied(old, changes({"a": old.encode()}, {"a": new.encode()})) == new


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_a_difference_is_as_small_as_can_be(old: list[str], new: list[str]) -> None:
    longest = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for x, one in enumerate(old):
        for y, other in enumerate(new):
            longest[x + 1][y + 1] = longest[x][y] + 1 if one == other else max(longest[x][y + 1], longest[x + 1][y])
    before, after = ("".join(f"{line}\n" for line in lines).encode() for lines in (old, new))
    found = changes({"a": before}, {"a": after})
    assert sum(each.added + each.removed for each in found) == len(old) + len(new) - 2 * longest[-1][-1]


@pytest.mark.processes
@settings(max_examples=25)
@given(_files, _files)
def test_patch_takes_it(tmp_path_factory: pytest.TempPathFactory, old: str, new: str) -> None:
    root = tmp_path_factory.mktemp("patched")
    found = changes({"dir/a": b"x\n" + old.encode()}, {"dir/a": b"x\n" + new.encode()})
    if not found:
        return
    (root / "dir").mkdir()
    file = root / "dir" / "a"
    file.write_bytes(b"x\n" + old.encode())
    run = ["git", "apply", "--unsafe-paths", "-p1", "--unidiff-zero", "-"]
    subprocess.run(run, cwd=root, input=text(found).encode(), check=True, capture_output=True)
    assert Path(file).read_bytes() == b"x\n" + new.encode()


def test_files_that_have_nothing_in_common_are_taken_away_and_put_anew() -> None:
    old, new = ("".join(f"{name}{at}\n" for at in range(20_000)).encode() for name in "xy")
    [found] = changes({"a": old}, {"a": new})
    assert (found.added, found.removed) == (20_000, 20_000)


def test_many_files_that_differ_in_much_end_at_the_bound() -> None:
    def files(name: str) -> dict[str, bytes]:
        line = "".join(f"{name}{at}\nsame\n" for at in range(MOST_EDITS // 3))
        return {f"{at:03}": line.encode() for at in range(300)}

    found = changes(files("x"), files("y"))
    assert len(found) == 300
    assert found[0].added < found[-1].added
