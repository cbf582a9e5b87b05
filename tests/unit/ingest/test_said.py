"""The log of a server whose catalogs are wrong: each fault is told where it is, and once."""

from __future__ import annotations

from typing import Any

import pytest

from cacheserver.catalogs import Finding
from cacheserver.ingest import Outcome, SyncReport
from cacheserver.ingest.said import MOST_LINES, Said
from cacheserver.model import RepositoryKey

KEY = RepositoryKey("ns", "r")


def bad(name: str = "app", message: str = "must contain at least one channel") -> dict[str, list[Finding]]:
    return {name: [Finding("NoChannel", message, f"{name}/catalog.yaml", 1, 5, name)]}


def report(**facts: Any) -> SyncReport:
    return SyncReport(KEY, **{"outcome": Outcome.APPLIED, **facts})


def test_a_rejected_package_is_told_once_with_name_file_line_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    said = Said()
    for _ in range(2):
        said.tell(report(rejected=bad()))
    [line] = caplog.records
    fields = [vars(line)[name] for name in ("levelname", "repository", "package", "path", "line", "reason", "error")]
    where = ["WARNING", "r", "app", "app/catalog.yaml", 5, "NoChannel"]
    assert fields == [*where, "must contain at least one channel"]


def test_what_is_wrong_anew_or_again_is_told(caplog: pytest.LogCaptureFixture) -> None:
    said = Said()
    for rejected in (bad(), bad(message="duplicate package"), {}, bad(message="duplicate package")):
        said.tell(report(rejected=rejected))
    assert [vars(line)["error"] for line in caplog.records] == [
        "must contain at least one channel",
        "duplicate package",
        "duplicate package",
    ]


def test_a_catalog_of_many_faults_writes_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    everything = {name: found for n in range(400) for name, found in bad(f"p{n:03}").items()}
    said = Said()
    for _ in range(3):
        said.tell(report(rejected=everything))
    assert len(caplog.records) == MOST_LINES + 1
    assert vars(caplog.records[-1])["more"] == 400 - MOST_LINES


def test_a_held_catalog_is_one_warning_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    said = Said()
    for _ in range(2):
        said.tell(report(outcome=Outcome.HELD, reason="CatalogRefused", message="fix it", rejected=bad()))
    [line] = caplog.records
    assert (line.levelname, vars(line)["reason"], vars(line)["error"]) == ("WARNING", "CatalogRefused", "fix it")


def test_a_file_that_cannot_be_read_is_told_though_it_holds_back_nothing(caplog: pytest.LogCaptureFixture) -> None:
    said, cause = Said(), Finding("YAMLSyntax", "could not find expected ':'", "extra.yaml", 1, 9)
    for _ in range(2):
        said.tell(report(cause=cause, findings=[cause]))
    [line] = caplog.records
    assert (vars(line)["path"], vars(line)["line"], vars(line)["reason"]) == ("extra.yaml", 9, "YAMLSyntax")
