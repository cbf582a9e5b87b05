"""What the aims in words mean, and how they are told."""

from __future__ import annotations

import pytest

from bench.report import aims


@pytest.mark.parametrize(
    ("aim", "value", "parts", "met"),
    [
        ("under 10 ms", 9.9, {}, True),
        ("under 10 ms", 10.0, {}, False),
        ("under 1,000 ms, 200 kB", 900, {"kB": 250.0}, False),
        ("p99 under 20 ms", 5.0, {"p99_ms": 21.0}, False),
        ("500/s, p99 under 50 ms", 600, {"p99_ms": 49.0}, True),
        ("100,000/s, 6 us", 120_000, {"server_us_an_event": 5.0}, True),
        ("15,000/s", 14_000, {}, False),
        ("0.97 or more", 0.98, {}, True),
        ("as without them", 1.0, {}, None),
        ("p99 under 20 ms", 5.0, {}, None),
    ],
)
def test_an_aim_in_words_is_judged_by_the_figure_and_what_belongs_to_it(
    aim: str, value: float, parts: dict[str, float], met: bool | None
) -> None:
    assert aims.met(aim, value, parts) is met


def test_a_ratio_is_judged_by_its_headline_and_what_was_missed_comes_first() -> None:
    ratio = {"value": 9.0, "second": 7.0, "ours": 1, "theirs": 1, "unit": "req/s", "aim": 8.0, "compared": ""}
    sample = {"value": 5.0, "unit": "ms", "parts": {}, "aim": "under 10 ms"}
    run = {
        "rows": [{"question": "save", "rounds": [sample]}],
        "ratios": {"GET": [{**ratio, "part": "per_server_cpu_s"}], "memory": [ratio]},
    }
    told = aims.summary(aims.verdicts([run], "compare")).splitlines()
    assert told[:2] == ["aims missed: 1", "  compare: GET: 7.00 times (aim: 8 times)"]
    assert told[-1] == "  compare: save: 5.00 ms (aim: under 10 ms)"
