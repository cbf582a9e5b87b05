"""Which files a package may have, judged without a server."""

from __future__ import annotations

import pytest

from cacheserver.publish.package import File, Limits, check, wrong_with

KPTFILE = {"Kptfile": File(b"")}


def fields(*paths: str, limits: Limits | None = None) -> list[str]:
    """Of the causes why these files are refused, beside a Kptfile."""
    files = {**KPTFILE, **{path: File(b"x") for path in paths}}
    return [cause.field for cause in check(files, limits or Limits())]


@pytest.mark.parametrize(
    "path",
    [
        "Kptfile",
        "a/b/c.yaml",
        ".gitignore",
        "a/.gitattributes",
        "gitea.yaml",
        ".github/x",
        "é.txt",
        "a b",
        ".gitx",
        "..a",
    ],
)
def test_what_real_packages_hold_is_fine(path: str) -> None:
    assert wrong_with(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        ".git",
        ".git/hooks/x",
        "a/.Git/x",
        ".git /x",
        ".git.../x",
        ".g\u200cit",
        ".\ufeffgit",
        "git~1",
        "GIT~12/x",
        ".git::$INDEX_ALLOCATION",
        ".ｇit/x",
        ".gitmodules",
        ".GitModules",
        ".GITIGNORE",
        "a\x00",
        "a\nb",
        "a\x7f",
        "a\\b",
        "\ud800",
        "x" * 256,
        "/".join(["a" * 200] * 6),
        "/".join("a" * 33),
    ],
)
def test_what_leaves_or_harms_a_checkout_is_not(path: str) -> None:
    assert wrong_with(path) is not None


@pytest.mark.parametrize(
    "twins", [("a", "A"), ("é", "e\u0301"), ("d/x", "D/y"), ("a", "a/b"), ("straße", "STRASSE"), ("kptfile", "b")]
)
def test_two_files_that_are_one_to_some_file_system_are_refused(twins: tuple[str, str]) -> None:
    assert fields(*twins)


def test_neighbours_are_no_twins() -> None:
    assert fields("a/x", "a/y", "b/x", "a.yaml") == []


def test_a_package_has_a_kptfile_and_so_much() -> None:
    assert [cause.reason for cause in check({}, Limits())] == ["FieldValueRequired"]
    assert fields("a", "b", limits=Limits(files=2)) == ["spec.resources"]
    assert fields("a", "b", limits=Limits(size=1)) == ["spec.resources"]


def test_a_thousand_wrong_paths_are_told_in_twenty() -> None:
    assert len(fields(*(f"../{n}" for n in range(900)))) == 20
