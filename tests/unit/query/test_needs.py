"""What a revision needs, and who gives it: OLM's rules for one bundle, three answers, and the order of the best."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cacheserver.catalogs import semver
from cacheserver.query.needs import (
    MOST_DEPTH,
    MOST_PARTS,
    All,
    Api,
    Found,
    InPackage,
    Met,
    Offer,
    handles,
    met,
    needs,
    ranked,
    why_unjudged,
)
from cacheserver.query.package import order_of, version_or_number

GVK = {"gvk": {"group": "g.io", "version": "v1", "kind": "Thing"}}
PACKAGE = {"package": {"packageName": "app", "versionRange": ">=1.0.0 <2.0.0"}}
CEL = {"cel": {"rule": "properties.exists(p, p.type == 'x')"}}
THING = frozenset({"Thing.g.io", "Thing.v1.g.io"})


def offer(package: str = "app", version: str = "1.5.0", *, thing: bool = True) -> Offer:
    return Offer(package, semver.parse(version), THING if thing else frozenset())


def part(constraint: Any) -> Any:
    (need,) = needs({"status": {"constraints": [json.dumps(constraint)]}})
    return need.part


def compound(name: str, *parts: Any) -> Any:
    return {name: {"constraints": list(parts)}}


@pytest.mark.parametrize(
    ("constraint", "given", "expected"),
    [
        (GVK, offer("other"), True),
        (GVK, offer(thing=False), False),
        (PACKAGE, offer(), True),
        (PACKAGE, offer(version="2.0.0"), False),
        (PACKAGE, offer(version="2.0.0-rc.1"), True),  # blang orders it below, and asks no more
        (PACKAGE, offer("other"), False),
        (compound("all", GVK, PACKAGE), offer(), True),
        (compound("all", GVK, PACKAGE), offer("other"), False),  # of one bundle all is asked
        (compound("any", GVK, PACKAGE), offer("other"), True),
        (compound("any", GVK, PACKAGE), offer("other", thing=False), False),
        (compound("not", GVK), offer(), False),
        (compound("not", GVK, PACKAGE), offer("other", thing=False), True),
        (compound("all", GVK, compound("not", PACKAGE)), offer("other"), True),
        (compound("all", GVK, CEL), offer(), None),
        (compound("all", GVK, CEL), offer(thing=False), False),
        (compound("any", GVK, CEL), offer(), True),
        (compound("any", GVK, CEL), offer(thing=False), None),
        (compound("not", CEL), offer(), None),
        (CEL, offer(), None),
        ({}, offer(), None),
        ({"gvk": "x"}, offer(), None),
        ([1], offer(), None),
        (compound("all"), offer(), True),
        (compound("any"), offer(), False),
        ({"all": {"constraints": "x"}}, offer(), True),
        ({"package": {"packageName": "app", "versionRange": "nonsense"}}, offer(), False),
    ],
)
def test_one_bundle_meets_a_constraint_or_not(constraint: Any, given: Offer, expected: Met) -> None:
    assert met(part(constraint), given) is expected


def test_it_is_looked_up_by_what_whoever_meets_it_has() -> None:
    thing, app = Api("g.io", "v1", "Thing"), InPackage("app", semver.parse_range(">=1.0.0 <2.0.0"))
    assert handles(part(GVK)) == [thing]
    assert handles(part(compound("all", GVK, PACKAGE))) == [app]
    assert handles(part(compound("any", GVK, PACKAGE))) == [thing, app]
    assert handles(part(compound("all", compound("not", PACKAGE), GVK))) == [thing]
    assert handles(part(compound("any", GVK, CEL))) is None
    assert handles(part(compound("not", GVK))) is None
    assert handles(part(compound("all"))) is None


def test_what_nests_without_end_is_not_judged() -> None:
    wide = part(compound("all", *[GVK] * (MOST_PARTS + 5)))
    assert isinstance(wide, All)
    assert len(wide.parts) == MOST_PARTS
    assert "over" in why_unjudged(wide)
    deep: Any = GVK
    for _ in range(MOST_DEPTH + 2):
        deep = compound("all", deep)
    assert "deeper" in why_unjudged(part(deep))
    assert met(part(deep), offer()) is None
    assert not why_unjudged(part(compound("all", GVK, PACKAGE)))


def test_each_need_is_told_once_as_it_is_written() -> None:
    api = {"group": "g.io", "version": "v1", "kind": "Thing"}
    dependency = {"package": "app", "versionRange": ">=1.0.0"}
    constraint = json.dumps({"failureMessage": "a thing, please", **GVK})
    status = {"requiredAPIs": [api, api], "dependencies": [dependency], "constraints": [constraint]}
    assert [need.said for need in needs({"status": status})] == [
        {"type": "package", **dependency},
        {"type": "constraint", "constraint": constraint, "message": "a thing, please"},
        {"type": "api", **api},
    ]
    assert needs({}) == []


def found(package: str, written: str, *, deprecated: bool = False, near: bool = False, sure: bool = True) -> Found:
    order, name = order_of(version_or_number(written)), f"r.{package}.{written}"
    return Found("n", name, "r", package, written, order, deprecated=deprecated, near=near, sure=sure)


def test_of_each_package_the_best_comes_before_anybodys_second() -> None:
    ordered = [
        found("c", "1.0.0", near=True),
        found("a", "10.0.0"),
        found("b", "v3"),
        found("e", "1.0.0", deprecated=True),
        found("f", "9.0.0", sure=False),
        found("a", "9.0.0"),
        found("b", "v2"),
        found("a", "11.0.0", deprecated=True),
    ]
    assert ranked(sorted(ordered, key=lambda each: each.name)) == ordered
