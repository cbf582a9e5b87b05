"""One command makes every run: in an order that is fair, what it has not made yet, and on when one of them fails."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from bench import programme
from bench.errors import BenchError
from bench.peers import known
from bench.programme import Programme, Run
from bench.report.table import Machine, Report, Sample

PEERS = {name: Path(f"/programs/{name}") for name in known.NAMES}
HERE = Machine("some CPU", 2, 0.1, 8.0, "Linux", "CPython", "3.5.30 (as given)", "0.1.0", "abcdef")


def given(*arguments: str) -> argparse.Namespace:
    return programme.parser().parse_args(arguments)


def planned(*arguments: str, peers: Mapping[str, Path] = PEERS) -> tuple[list[Run], dict[str, str]]:
    return programme.planned(given("--catalog", "/c", "--bundle", "/b", *arguments), peers)


def options_of(arguments: Sequence[str]) -> Mapping[str, object]:
    return {"rounds": int(arguments[arguments.index("--rounds") + 1])}


@pytest.fixture(autouse=True)
def _committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever state the tree of the tests is in."""
    monkeypatch.setattr(programme, "commit_of_tree", lambda: "abcdef")


class World:
    """Runs that leave a result each, or fail as they are told to."""

    def __init__(self, results: Path, *, failing: Sequence[str] = ()) -> None:
        self.made: list[str] = []
        self._results, self._failing = results / "quick", failing

    def make(self, run: Run) -> str:
        self.made.append(run.part)
        if run.part in self._failing:
            return "exit code 1"
        report = Report(HERE, options_of(run.arguments))
        report.add("GET", Sample(run.nth, "req/s", {}, "2 or more"))
        report.write(self._results, run.part).rename(self._results / f"{run.part}-{len(self.made)}{run.nth}.json")
        return ""

    def carry_out(self, *arguments: str) -> int:
        asked = given("--quick", "--results", str(self._results.parent), *arguments)
        runs, _ = programme.planned(asked, PEERS)
        self.made.clear()
        return Programme(asked, options_of, self.make).carry_out(runs)


def test_runs_that_are_told_with_their_range_do_not_follow_one_another() -> None:
    runs, _ = planned()
    parts = [run.part for run in runs]
    assert parts.count("compare") == parts.count("olm") == parts.count("doors") == 3
    assert not [pair for pair in pairwise(parts) if pair[0] == pair[1]]
    assert [run.nth for run in runs if run.part == "compare"] == [1, 2, 3]


def test_every_part_that_documents_tell_of_is_run_with_what_it_needs() -> None:
    runs, left_out = planned("--seconds", "1")
    assert {run.part for run in runs} | set(left_out) == set(programme.PARTS)
    (held,) = (run for run in runs if run.part == "held")
    assert held.arguments[-2:] == ["--peer", "kube-apiserver=/programs/kube-apiserver"]
    assert all("--catalog" in run.arguments for run in runs if run.part in ("olm", "doors", "catalog", "sources"))
    assert not any("--catalog" in run.arguments for run in runs if run.part == "finding")


def test_a_part_without_its_peer_is_left_out_and_says_how_to_give_it() -> None:
    runs, left_out = planned(peers={name: PEERS[name] for name in PEERS if name != known.OPM})
    assert left_out["olm"] == "it needs --peer opm=PATH, or CACHESERVER_TEST_OPM"
    assert "compare" in {run.part for run in runs}
    with pytest.raises(BenchError, match="--only nonsense: no such part; there are compare, finding"):
        planned("--only", "nonsense")


def test_what_has_a_result_is_not_made_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.carry_out("--only", "compare", "serve", "--runs", "2")
    assert world.made == ["compare", "compare", "serve"]
    world.carry_out("--only", "compare", "serve", "--runs", "3")
    assert world.made == ["compare"]
    world.carry_out("--only", "serve", "--rounds", "5")
    assert world.made == ["serve"], "other options are another question"


def test_a_part_that_fails_is_named_the_rest_goes_on_and_it_alone_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, failing=["serve"])
    assert world.carry_out("--only", "serve", "herd") == 1
    assert world.made == ["serve", "herd"]
    assert "FAILED: serve, run 1: exit code 1" in capsys.readouterr().err

    again = World(tmp_path)
    again.carry_out("--only", "serve", "herd")
    assert again.made == ["serve"]


def test_the_end_says_which_aims_were_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    World(tmp_path).carry_out("--only", "herd")
    assert "aims missed: 1\n  herd: GET: 1.00 req/s (aim: 2 or more)" in capsys.readouterr().out


def test_results_of_another_commit_count_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.carry_out("--only", "herd")
    monkeypatch.setattr(programme, "commit_of_tree", lambda: "another")
    world.carry_out("--only", "herd")
    assert world.made == ["herd"]
