"""Sixty questions as people type them, over a shelf of thirty packages: the expected one is among the first three.

Typing errors, plurals and other forms, words of descriptions, kinds and groups, providers, other scripts, punctuation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from cacheserver.query.search import SearchIndex, at_once

FIXTURES: Final = Path(__file__).parents[2] / "fixtures" / "finding"
SHELF: Final = (FIXTURES / "shelf.txt").read_text(encoding="utf-8")
QUERIES: Final = (FIXTURES / "queries.txt").read_text(encoding="utf-8")


def _shelf() -> SearchIndex:
    """name | display name | kinds (group/Kind) | keywords | provider | categories | summary"""
    index = SearchIndex()
    for line in SHELF.strip().splitlines():
        name, display, kinds, keywords, provider, categories, summary = (part.strip() for part in line.split("|"))
        index.put(_package(name, display, kinds, keywords, provider, categories, summary))
    return index


def _package(
    name: str, display: str, kinds: str, keywords: str, provider: str, categories: str, summary: str
) -> Mapping[str, Any]:
    status = {
        "displayName": display,
        "providedAPIs": [
            dict(zip(("group", "kind"), each.split("/"), strict=True), version="v1") for each in kinds.split()
        ],
        "keywords": [each.strip() for each in keywords.split(",") if each.strip()],
        "provider": {"name": provider},
        "categories": [each.strip() for each in categories.split(",") if each.strip()],
        "summary": summary,
    }
    spec = {"repository": "r", "packageName": name, "format": "FBC"}
    return {"metadata": {"namespace": "team", "name": f"r.{name}"}, "spec": spec, "status": status}


ROWS: Final = [
    (said, [each.strip() for each in expected.split(",") if each.strip()])
    for said, _, expected in (line.rpartition(":") for line in QUERIES.strip("\n").splitlines())
]


@pytest.fixture(scope="module")
def index() -> SearchIndex:
    return _shelf()


@pytest.mark.parametrize(("said", "expected"), ROWS, ids=[said for said, _ in ROWS])
def test_what_is_asked_for_is_among_the_first_three(index: SearchIndex, said: str, expected: list[str]) -> None:
    first = [hit.facts.package for hit in at_once(index.search(said)).hits[:3]]
    assert set(expected) <= set(first), first


def test_they_are_as_many_as_were_promised() -> None:
    assert len(ROWS) >= 60
