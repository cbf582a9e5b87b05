"""`.indexignore` reads like a `.gitignore`."""

from __future__ import annotations

import time

import pytest

from cacheserver.catalogs.ignore import kept


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
    ],
)
def test_patterns(patterns: str, path: str, is_kept: bool) -> None:
    assert kept([path], {".indexignore": patterns}) == ([path] if is_kept else [])


def test_a_nested_file_rules_below_itself_and_has_the_last_word() -> None:
    files = [".indexignore", "a.md", "b/.indexignore", "b/a.md", "b/c.yaml", "bc/c.yaml"]
    ignores = {".indexignore": "*.md", "b/.indexignore": "!a.md\n/c.yaml"}
    assert kept(files, ignores) == ["b/a.md", "bc/c.yaml"]


def test_a_pattern_that_backtracks_is_cut_short_by_its_length() -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match="1024 characters"):
        kept(["a" * 200], {".indexignore": "*a" * 600 + "b"})
    assert time.perf_counter() - started < 1
