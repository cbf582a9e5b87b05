"""Upgrade paths and graphs through the API: what is asked, what is answered, and what is refused by name."""

from __future__ import annotations

import pytest

from cacheserver.api.finding import MOST_BYTES
from cacheserver.model import Kind
from cacheserver.query.package import MOST_BUNDLES
from tests.fakes.api import World

APP = "namespaces/team/packages/r.app"
UPGRADES = f"{APP}/upgrades"
GRAPH = f"{APP}/graph"


@pytest.fixture
async def app(world: World) -> World:
    """Versions 1.0.0 to 1.3.0 in `stable`, each replacing the one before; 1.3.0 in `fast` by a range."""
    world.package("app", defaultChannel="stable", channels=[{"name": "stable"}, {"name": "fast"}])
    versions = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    for at, version in enumerate(versions):
        place = {"name": "stable", "head": at == 3} | ({"replaces": versions[at - 1]} if at else {})
        places = [place] + ([{"name": "fast", "head": True, "skipRange": "<1.3.0"}] if at == 3 else [])
        world.revision(version, channels=places)
    await world.settled()
    return world


async def test_upgrades_say_the_way_what_happens_by_itself_and_why(app: World) -> None:
    answer = (await app.get(UPGRADES, query={"from": "1.0.0", "to": "1.3.0", "channel": "stable"})).json
    assert (answer["kind"], answer["metadata"]["name"]) == ("PackageUpgrades", "r.app")
    status = answer["status"]
    assert [step["name"] for step in status["path"]["steps"]] == ["1.1.0", "1.2.0", "1.3.0"]
    assert status["path"]["steps"][0] == {
        "name": "1.1.0",
        "version": "1.1.0",
        "revision": "r.app.1.1.0",
        "reasons": ["replaces"],
        "channels": ["stable"],
    }
    assert [step["name"] for step in status["v0"]["steps"]] == ["1.1.0", "1.2.0", "1.3.0"]
    everywhere = (await app.get(UPGRADES, query={"from": "1.0.0", "to": "1.3.0"})).json["status"]
    assert [step["skipRanges"] for step in everywhere["path"]["steps"]] == [["<1.3.0"]]
    assert everywhere["v0"]["channel"] == "stable"


async def test_where_there_is_no_way_there_is_a_reason_and_what_works(app: World) -> None:
    status = (await app.get(UPGRADES, query={"from": "1.3.0", "to": "1.0.0"})).json["status"]
    assert (status["path"]["steps"], status["path"]["reason"]) == ([], "Downgrade")
    status = (await app.get(UPGRADES, query={"from": "1.0.0", "to": "1.2.0", "channel": "fast"})).json["status"]
    assert status["path"]["reason"] == "TargetNotInChannel"
    assert status["alternatives"] == [{"channel": "stable", "to": "1.2.0", "steps": 2}]
    status = (await app.get(UPGRADES, query={"from": "1.0.0", "to": "9.9.9"})).json["status"]
    assert status["path"]["reason"] == "TargetNotFound"


async def test_what_is_installed_may_be_in_no_catalog(app: World) -> None:
    answer = await app.get(UPGRADES, query={"from": "mine", "fromVersion": "1.0.7", "to": "1.3.0"})
    status = answer.json["status"]
    assert status["from"] == {"name": "mine", "version": "1.0.7", "known": False}
    assert [step["name"] for step in status["path"]["steps"]] == ["1.3.0"]


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        (UPGRADES, {}, "say what is installed"),
        (UPGRADES, {"from": "1.0.0", "chanel": "x"}, "no parameter 'chanel'"),
        (UPGRADES, {"from": "1.0.0", "channel": "slow"}, "there are fast, stable"),
        (UPGRADES, {"from": "mine", "fromVersion": "1"}, "fromVersion is no version"),
        (UPGRADES, {"from": "x" * 2000}, "at most 1024"),
        (GRAPH, {"format": "gif"}, "json, svg, dot, mermaid"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(app: World, path: str, query: dict[str, str], said: str) -> None:
    answer = await app.get(path, query=query)
    assert answer.status == 400
    assert said in answer.json["message"]


async def test_a_graph_has_the_form_that_is_asked_for(app: World) -> None:
    graph = (await app.get(GRAPH)).json["status"]
    assert [row["name"] for row in graph["rows"]] == ["1.3.0", "1.2.0", "1.1.0", "1.0.0"]
    assert [lane["channels"] for lane in graph["lanes"]] == [["stable"], ["fast"]]
    for form, media_type in (("svg", "image/svg+xml"), ("dot", "text/vnd.graphviz"), ("mermaid", "text/vnd.mermaid")):
        by_format = await app.get(GRAPH, format=form)
        by_accept = await app.get(GRAPH, accept=media_type)
        assert by_format.body == by_accept.body
        assert by_format.headers["Content-Type"].startswith(media_type)
        assert by_format.headers["X-Content-Type-Options"] == "nosniff"
    assert (await app.get(GRAPH, accept="image/png")).status == 406


async def test_a_picture_may_do_nothing(app: World) -> None:
    answer = await app.get(GRAPH, format="svg")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_a_krm_package_says_that_it_has_a_line_of_revisions(world: World) -> None:
    world.package("app")
    for name in ("v2", "v1", "main"):
        world.revision(name)
    await world.settled()
    status = (await world.get(UPGRADES, query={"from": "v1"})).json["status"]
    assert status["reason"]["reason"] == "NoUpgradeEdges"
    assert [each["name"] for each in status["line"]] == ["v1", "v2"]
    assert [lane["channels"] for lane in (await world.get(GRAPH)).json["status"]["lanes"]] == [["revisions"]]


async def test_revisions_of_another_namespace_or_repository_are_not_looked_at(app: World) -> None:
    spec = b'{"repository":"s","packageName":"app","revision":"hidden","version":"7.0.0"}'
    app.feed.put("team", "s.app.hidden", kind=Kind.REVISION, spec=spec)
    app.feed.put("other", "r.app.hidden", kind=Kind.REVISION, spec=spec.replace(b'"s"', b'"r"'))
    await app.settled()
    assert b"hidden" not in (await app.get(GRAPH)).body


async def test_a_package_that_is_too_large_is_refused_by_its_size(world: World) -> None:
    world.package("app")
    for at in range(MOST_BUNDLES + 1):
        world.revision(f"{at}.0.0")
    await world.settled()
    for path in (f"{UPGRADES}?from=1.0.0", GRAPH):
        answer = await world.get(path)
        assert answer.status == 400
        assert f"at most {MOST_BUNDLES} of {MOST_BYTES}" in answer.json["message"]


async def test_a_large_package_is_drawn_beside_the_loop(world: World) -> None:
    world.package("app")
    places = [{"name": f"channel-{at}", "skipRange": f"<1.{at}.0"} for at in range(40)]
    for at in range(140):
        world.revision(f"1.{at}.0", channels=places)
    await world.settled()
    answer = await world.get(GRAPH)
    assert len(answer.json["status"]["points"]) == 5_600


async def test_what_is_not_there_is_not_found(app: World) -> None:
    assert (await app.get("namespaces/team/packages/r.none/graph")).status == 404
    assert (await app.get("namespaces/team/packagerevisions/r.app.1.0.0/graph")).status == 404
