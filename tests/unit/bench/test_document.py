"""The documents with figures say what was measured, and a place without a figure is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench import compare
from bench.errors import BenchError
from bench.report import document
from bench.report.table import Machine, Report, Sample

HERE = Machine("some CPU", 2, 0.1, 8.0, "Linux", "CPython", "3.5.30 (as given)", "0.1.0", "abcdef")


class Runs:
    """A directory of results, as runs of `compare` leave them one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0

    def run(self, ours: float, theirs: float, *, commit: str = "abcdef", rounds: int = 1) -> None:
        report = Report(dataclasses.replace(HERE, commit=commit), {"rounds": rounds})
        sides = {
            "cacheserver": Sample(ours, "req/s", {"per_server_cpu_s": ours * 2, "p99_ms": 1.5}),
            "a peer": Sample(theirs, "req/s", {"per_server_cpu_s": theirs}),
        }
        compare.add(report, "GET", sides, "per_server_cpu_s", aim=8, compared="the same objects")
        written = report.write(self.path, "compare")
        self._count += 1
        written.rename(self.path / f"compare-{self._count}.json")

    def text(self, template: str) -> str:
        return document.filled(template, document.gathered(self.path))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_place_holds_the_median_of_the_newest_three_runs(runs: Runs) -> None:
    for ours in (1, 400, 600, 500):
        runs.run(ours, 100)

    assert runs.text("{{compare ~ GET · cacheserver}} {{compare ~ GET · cacheserver ~ p99_ms}}") == "500 1.5"
    assert (
        runs.text("{{compare ~ GET ~ ours}} to {{compare ~ GET ~ theirs}}: {{compare ~ GET ~ ratio}}")
        == "500 to 100: 5"
    )


def test_the_headline_is_by_cpu_and_has_its_range(runs: Runs) -> None:
    for ours in (400, 600, 500):
        runs.run(ours, 100)

    assert runs.text("{{compare ~ GET ~ cpu}} ({{compare ~ GET ~ range}})") == "10 (8 to 12)"
    assert runs.text("{{beside compare ~ GET = a GET}}") == "| a GET | 500 req/s | 100 req/s | 5 | **10** (8 to 12) |"


def test_runs_of_an_older_commit_are_not_mixed_with_newer_ones(runs: Runs) -> None:
    runs.run(100, 100, commit="older")
    runs.run(700, 100)

    assert runs.text("{{compare ~ GET ~ range}} at {{machine ~ commit}}") == "14 to 14 at abcdef"


def test_a_place_without_a_figure_is_refused_by_name_with_what_is_like_it(runs: Runs) -> None:
    runs.run(700, 100)

    with pytest.raises(BenchError, match=r"no figure 'GETS' in compare.*'GET'"):
        runs.text("{{compare ~ GETS ~ cpu}}")
    with pytest.raises(BenchError, match=r"no figure 'compared' in the runs.*'compare'"):
        runs.text("{{compared ~ GET}}")


def test_a_curve_has_its_exponents_and_its_line_goes_on(tmp_path: Path) -> None:
    report = Report(HERE, {"rounds": 1})
    for size, took in ((1_000, 1.0), (10_000, 2.0), (100_000, 20.0)):
        report.add(f"start at {size:,} objects", Sample(took, "s", {"cpu_s": took / 2}))
        report.add(f"delay, {size:,} watchers, {1_000_000 // size} writes/s", Sample(size, "ms"))
    report.write(tmp_path, "scale")
    figures = document.gathered(tmp_path)

    rows = "{{curve scale ~ 1000 10000 100000 ~ start at # objects = start, s ~ delay, # watchers = delay, ms}}"
    assert document.filled(rows, figures).splitlines() == [
        "| start, s | 1 | 2 | 20 | 0.65 | 1.00 |",
        "| delay, ms | 1,000 | 10,000 | 100,000 | 1.00 | 1.00 |",
    ]
    assert document.filled("{{curve scale ~ 1000 ~ start at # objects @ cpu_s = CPU}}", figures).startswith(
        "| CPU | 0.5 |"
    )
    assert document.filled("{{line scale ~ start at # objects ~ +10,000}}", figures) == "2"
    assert document.filled("{{line scale ~ start at # objects ~ 0}}", figures) == "0"
    assert document.filled("{{line scale ~ start at # objects ~ 1,000,000}}", figures) == "200"
    assert document.filled("{{scale ~ start at # objects}} s at {{scale ~ start at # objects ~ size}}", figures) == (
        "20 s at 100,000"
    )
    with pytest.raises(BenchError, match="no figure '1000000' in scale: start at # objects"):
        document.filled("{{curve scale ~ 1000 1000000 ~ start at # objects = start}}", figures)
    with pytest.raises(BenchError, match="no figure 'stop at # objects'"):
        document.filled("{{line scale ~ stop at # objects ~ 0}}", figures)


def test_runs_with_other_options_are_not_mixed(runs: Runs) -> None:
    runs.run(100, 100, rounds=5)
    runs.run(700, 100)

    assert runs.text("{{compare ~ GET ~ range}}") == "14 to 14"


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (0.01234, "0.012"), (1.26, "1.3"), (15.4, "15"), (99.6, "100"), (1234, "1,230"), (582_499, "582,000")],
)
def test_a_figure_has_the_digits_that_matter(value: float, told: str) -> None:
    assert document.said(value) == told


@pytest.mark.parametrize("path", document.documents(), ids=lambda path: path.name)
def test_the_documents_say_what_was_measured(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == document.documents()[path](document.kept()), "python -m bench document"
