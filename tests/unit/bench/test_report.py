"""What a run says is what was measured: ratios by rounds, curves by sizes, drawings that any viewer can read."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from bench import compare, scale
from bench.errors import BenchError
from bench.load import fill, http
from bench.peers import crs
from bench.report import plot
from bench.report.figures import exponent
from bench.report.table import Machine, Ratio, Report, Sample
from cacheserver import model
from cacheserver.model import Kind

SVG = "{http://www.w3.org/2000/svg}"
NOW = "2026-01-02T03:04:05Z"


@pytest.fixture
def report() -> Report:
    about = Machine("some CPU", 2, 0.1, 8.0, "Linux", "CPython", "3.5.30 (as given)", "0.1.0", "abcdef")
    return Report(about, {"rounds": 3})


def ratio(value: float, *, aim: float = 0.0) -> Ratio:
    return Ratio(value, 0.0, value * 10, 10, "req/s", aim, "the same objects", "", "a peer")


# --- ratios ---


def test_a_ratio_is_the_median_of_the_rounds_and_says_whether_it_met_its_aim(report: Report) -> None:
    for value in (19.0, 25.0, 21.0):
        report.ratio("LIST", ratio(value, aim=20))
    report.ratio("GET", ratio(5.0, aim=6))

    (listed,) = (line for line in report.table().splitlines() if line.startswith("LIST: "))
    (got,) = (line for line in report.table().splitlines() if line.startswith("GET: "))
    assert listed.split(" | ")[:5] == ["LIST: 21.0", "a peer", "19.0 25.0 21.0", "20", "yes"]
    assert got.split(" | ")[3:5] == ["6", "NO"]


def test_more_requests_and_less_memory_are_both_over_one_when_they_are_for_us(report: Report) -> None:
    rates = {"cacheserver": Sample(300, "req/s", {"x": 1}), "other": Sample(100, "req/s", {"x": 2})}
    compare.add(report, "rate", rates, "", aim=0, compared="")
    sizes = {"cacheserver": Sample(50, "MB", {"peak_MB": 60}), "other": Sample(200, "MB", {"peak_MB": 240})}
    compare.add(report, "memory", sizes, "peak_MB", aim=0, compared="", less=True)

    assert report.ratios["rate"][0].value == pytest.approx(3.0)
    assert report.ratios["memory"][0].value == pytest.approx(4.0)
    assert report.ratios["memory"][0].second == pytest.approx(4.0)
    assert report.row("rate · other").value == 100


def test_a_custom_resource_holds_what_our_object_holds() -> None:
    shape = fill.Shape(packages=20, repositories=4)
    ours = orjson.loads(model.encode(fill.record(shape, 7), previous=None, now=NOW))
    theirs = crs.manifest(shape, 7)

    assert {name: theirs[name] for name in ("apiVersion", "kind", "spec", "status")} == {
        name: ours[name] for name in ("apiVersion", "kind", "spec", "status")
    }
    assert theirs["metadata"].items() <= ours["metadata"].items()


# --- sizes ---


def test_an_exponent_tells_linear_from_constant_from_quadratic() -> None:
    sizes = (1_000.0, 10_000.0, 100_000.0)
    assert exponent({size: 3 * size for size in sizes}) == pytest.approx(1)
    assert exponent(dict.fromkeys(sizes, 3.0)) == pytest.approx(0)
    assert exponent({size: size**2 for size in sizes}) == pytest.approx(2)
    assert exponent({1000.0: 5.0}) == 0


def test_a_curve_leaves_out_what_was_not_asked(report: Report) -> None:
    for size, seconds in ((10, 1.0), (100, 10.0)):
        report.add(f"start at {size}", Sample(seconds, "s"))
    report.curve("start", "revisions", {size: f"start at {size}" for size in (10, 100, 1000)})

    assert "start (s) | revisions | 10: 1.00, 100: 10.0 | 1.00 | 1.00" in report.table()


def test_revisions_have_about_the_size_asked_for() -> None:
    shape = fill.Shape(packages=3, repositories=1, revisions=5, revision_bytes=1600)
    made = [fill.revision_record(shape, number, at) for number in range(3) for at in range(5)]
    sizes = [
        len(model.with_resource_version(Kind.REVISION, model.encode(each, previous=None, now=NOW), 10**6))
        for each in made
    ]

    assert all(1450 <= size <= 1600 for size in sizes)
    assert len({each.name for each in made}) == 15
    assert [each.name for each in made[:5]] == [shape.revision_name(0, at) for at in range(5)]


def counted(*, server_cpu_s: float, failures: int = 0) -> http.Result:
    return http.Result(100, failures, 1000, 1.0, 1.0, 1.0, 1.0, 0.5, server_cpu_s, 2.0, "status 500")


def test_what_several_clients_counted_at_the_same_time_is_added_up() -> None:
    sample = scale.summed("GET", [counted(server_cpu_s=0.5), counted(server_cpu_s=0.5)], 2)
    assert (sample.value, sample.parts["server_cores"], sample.parts["per_server_cpu_s"]) == (200, 1.0, 200)


def test_a_sum_of_more_than_the_machine_can_do_is_no_figure() -> None:
    with pytest.raises(BenchError, match=r"3\.00 cores' work on 2"):
        scale.summed("GET", [counted(server_cpu_s=1.0)] * 2, 2)
    with pytest.raises(BenchError, match="status 500"):
        scale.summed("GET", [counted(server_cpu_s=0.1, failures=1)], 2)


# --- drawings ---


def test_bars_are_longer_for_more_and_red_below_their_aim() -> None:
    drawn = plot.bars("ratios", ["a <machine>"], {"": [plot.Bar("GET", 3.0, 6.0), plot.Bar("LIST", 30.0, 20.0)]})
    rectangles = ElementTree.fromstring(drawn).findall(f"{SVG}rect")[1:]

    assert float(rectangles[0].get("width", "0")) < float(rectangles[1].get("width", "0"))
    assert rectangles[0].get("fill") != rectangles[1].get("fill")


def test_bars_on_both_sides_of_their_origin_and_what_is_said_right_of_all() -> None:
    shown = [plot.Bar("less", 0.3, 0.5, "0.3×"), plot.Bar("more", 30.0, 0.0, "30×"), plot.Bar("x" * 200, 1.0)]
    drawn = ElementTree.fromstring(plot.bars("ratios", [], {"req/s": shown}, origin=1.0))
    less, more, _ = drawn.findall(f"{SVG}rect")[1:]
    said = {each.text or "": float(each.get("x", "0")) for each in drawn.iter(f"{SVG}text")}

    end = float(less.get("x", "0")) + float(less.get("width", "0"))
    assert end == pytest.approx(float(more.get("x", "0")), abs=0.2)
    assert said["0.3×"] > end
    assert "req/s" in said
    assert not any("x" * 100 in each for each in said)


def test_a_curve_is_drawn_with_all_its_points() -> None:
    line = plot.Line("start", "revisions", "s", {1000.0: 0.5, 10_000.0: 1.0, 100_000.0: 6.0}, "exponent 0.5")
    drawn = ElementTree.fromstring(plot.lines("curves", [], [line, plot.Line("none", "x", "s", {})]))

    assert len(drawn.findall(f".//{SVG}circle")) == 3
    assert any(each.text == "not measured" for each in drawn.iter(f"{SVG}text"))


def test_what_is_written_holds_every_round(report: Report, tmp_path: Path) -> None:
    report.add("GET", Sample(1.0, "req/s"))
    report.ratio("GET", ratio(2.0))
    report.curve("GET", "revisions", {10: "GET"})
    written = orjson.loads(report.write(tmp_path, "all").read_bytes())

    assert written["ratios"]["GET"][0]["value"] == 2.0
    assert written["curves"][0]["points"] == [[10.0, 1.0]]
    assert [path.name.rpartition("-")[2] for path in report.plot(tmp_path, "all")] == ["ratios.svg", "curves.svg"]
