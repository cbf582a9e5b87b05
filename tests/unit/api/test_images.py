"""packages/NAME/images: what a mirror needs of a package, of a channel, or from a version on."""

from __future__ import annotations

import pytest

from tests.fakes.api import World

IMAGES = "namespaces/team/packages/r.app/images"


@pytest.fixture
async def app(world: World) -> World:
    world.package("app", defaultChannel="stable")
    for version, channel in (("1.0.0", "stable"), ("1.1.0", "stable"), ("2.0.0", "fast")):
        related = [{"image": f"reg.io/app:{version}"}, {"name": "proxy", "image": "reg.io/proxy:v1"}]
        world.revision(version, image=f"reg.io/bundle:{version}", relatedImages=related, channels=[{"name": channel}])
    await world.settled()
    return world


@pytest.mark.parametrize(
    ("query", "versions"),
    [
        ({}, ["1.0.0", "1.1.0", "2.0.0"]),
        ({"channel": "stable"}, ["1.0.0", "1.1.0"]),
        ({"channel": "stable", "from": "1.1.0"}, ["1.1.0"]),
        ({"from": "v1.1.0"}, ["1.1.0", "2.0.0"]),
        ({"channel": "fast", "from": "1.0.0"}, ["2.0.0"]),
    ],
)
async def test_every_image_is_listed_once(app: World, query: dict[str, str], versions: list[str]) -> None:
    expected = [f"reg.io/{what}:{version}" for what in ("app", "bundle") for version in versions] + ["reg.io/proxy:v1"]
    answer = (await app.get(IMAGES, query=query)).json
    assert (answer["kind"], answer["status"]["images"]) == ("PackageImages", expected)
    text = await app.get(IMAGES, query={**query, "format": "text"})
    assert text.body.decode().splitlines() == expected
    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (await app.get(IMAGES, query=query, accept="text/plain")).body == text.body


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"channel": "slow"}, "there are fast, stable"),
        ({"from": "7.0.0"}, "there are 2.0.0, 1.1.0, 1.0.0"),
        ({"format": "svg"}, "json, text"),
        ({"to": "1.0.0"}, "'to'"),
    ],
)
async def test_what_is_not_there_is_refused_by_name(app: World, query: dict[str, str], said: str) -> None:
    answer = await app.get(IMAGES, query=query)
    assert (answer.status, said in answer.json["message"]) == (400, True)


async def test_a_list_that_would_not_be_whole_is_refused(app: World) -> None:
    app.revision("3.0.0", truncated=["relatedImages"], relatedImages=[], channels=[{"name": "fast"}])
    await app.settled()
    answer = await app.get(IMAGES)
    assert (answer.status, "r.app.3.0.0" in answer.json["message"]) == (400, True)
    assert (await app.get(IMAGES, channel="stable")).status == 200


async def test_a_krm_package_lists_no_images(world: World) -> None:
    world.package("app")
    world.revision("v1")
    await world.settled()
    answer = await world.get(IMAGES)
    assert (answer.status, "KRM" in answer.json["message"]) == (400, True)
