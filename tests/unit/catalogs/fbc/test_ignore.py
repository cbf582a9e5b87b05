"""`.indexignore` reads like a `.gitignore`."""

from __future__ import annotations

import time

import pytest

from cacheserver.catalogs.fbc.ignore import hidden, kept


@pytest.mark.parametrize(
    ("patterns", "path", "is_kept"),
    [
        ("*.md", "README.md", False),
        ("*.md", "docs/README.md", False),
        ("*.md", "README.mdx", True),
        ("/README.md", "docs/README.md", True),
        ("/README.md", "README.md", False),
        ("docs", "docs/a/b.yaml", False),
        ("docs", "x/docs/b.yaml", False),
        ("docs/", "docs/b.yaml", False),
        ("docs/", "docs", True),
        ("a/docs", "x/a/docs/b", True),
        ("tmpl/**", "tmpl/a/b.yaml", False),
        ("tmpl/**\n!keep.yaml", "tmpl/keep.yaml", True),
        ("*\n!*.yaml", "a/b.yaml", True),
        ("*\n!*.yaml", "Dockerfile", False),
        ("!*.yaml\n*", "b.yaml", False),
        ("**/tests", "a/b/tests/c.yaml", False),
        ("a/**/z", "a/z", False),
        ("a/**/z", "a/b/c/z", False),
        ("a/*/z", "a/b/c/z", True),
        ("?.yaml", "a.yaml", False),
        ("?.yaml", "ab.yaml", True),
        ("[a-c].yaml", "b.yaml", False),
        ("[!a-c].yaml", "b.yaml", True),
        ("[!a-c].yaml", "d.yaml", False),
        ("[z-a].yaml", "d.yaml", True),
        ("# *.yaml\n\n  \n", "a.yaml", True),
        (r"\#x", "#x", False),
        (r"\!x", "!x", False),
        ("  *.md  ", "a.md", False),
        ("a.b", "aXb", True),
        ("*a*b*c", "xaxbxbxc", False),
        ("*a*ab", "aaab", False),
        ("*a/b*c", "xa/bxc", False),
        ("*a/b*c", "a/x/bc", True),
        ("**/a/**/b/**/c", "x/a/b/a/x/b/c", False),
        ("**/a/**/b/**/c", "b/a/c", True),
        ("**/**/a", "x/y/a", False),
        ("a**/b", "axx/b", False),
        ("a**/b", "a/x/b", True),
    ],
)
def test_patterns(patterns: str, path: str, is_kept: bool) -> None:
    assert kept([path], {".indexignore": patterns}) == ([path] if is_kept else [])


@pytest.mark.parametrize(
    ("path", "is_kept"),
    [
        (".venv/lib/x.yaml", False),
        ("a/.github/workflows/ci.yaml", False),
        (".hidden.yaml", True),
        ("a/.hidden.yaml", True),
        ("a.b/c.yaml", True),
    ],
)
def test_hidden_folders_hold_no_catalog(path: str, is_kept: bool) -> None:
    assert kept([path], {}) == ([path] if is_kept else [])
    assert hidden(path) is not is_kept


def test_an_ignore_file_can_ask_for_a_hidden_folder() -> None:
    assert kept([".catalog/a.yaml", ".venv/b.yaml"], {".indexignore": "!.catalog/"}) == [".catalog/a.yaml"]


def test_a_nested_file_rules_below_itself_and_has_the_last_word() -> None:
    files = [".indexignore", "a.md", "b/.indexignore", "b/a.md", "b/c.yaml", "bc/c.yaml"]
    ignores = {".indexignore": "*.md", "b/.indexignore": "!a.md\n/c.yaml"}
    assert kept(files, ignores) == ["b/a.md", "bc/c.yaml"]


def test_a_pattern_that_backtracks_is_cut_short_by_its_length() -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match="1024 characters"):
        kept(["a" * 200], {".indexignore": "*a" * 600 + "b"})
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("pattern", ["*a" * 300 + "b", "**/a/" * 200 + "b", "?*" * 300 + "b", "*[ab]" * 200 + "c"])
def test_no_pattern_tries_a_place_twice(pattern: str) -> None:
    """40 characters of the first took 3 s; these would not end."""
    path = "a/" * 30 + "a" * 200
    assert kept([path], {".indexignore": pattern}) == [path]
