"""The page's files: what is served, under which policy, and nothing beside them."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from cacheserver.web.policy import HEADERS, POLICY
from cacheserver.web.route import ROUTE, documents
from tests.fakes.api import api_world

STATIC = files("cacheserver.web") / "static"


@pytest.mark.parametrize("path", ["", "app.js", "app.css", "vendor/purify.js", "icon.svg"])
async def test_every_file_is_served_under_the_policy(path: str) -> None:
    async with api_world(routes=(ROUTE,)) as world:
        got = await world.get(f"/ui/{path}")
        assert got.status == 200
        for name, value in HEADERS.items():
            assert got.headers[name] == value
        again = await world.get(f"/ui/{path}", headers={"If-None-Match": got.headers["ETag"]})
        assert again.status == 304


@pytest.mark.parametrize(
    "path",
    ["../route.py", "%2e%2e/route.py", "vendor/../../route.py", "..%2froute.py", "vendor", "no-such.js", "/etc/passwd"],
)
async def test_nothing_else_is_read(path: str) -> None:
    async with api_world(routes=(ROUTE,)) as world:
        assert (await world.get(f"/ui/{path}")).status in (400, 404)


async def test_without_its_slash_it_is_found_behind_any_prefix() -> None:
    async with api_world(routes=(ROUTE,)) as world:
        got = await world.get("/ui")
        assert (got.status, got.headers["Location"]) == (307, "ui/")


def test_the_policy_lets_nothing_run_but_our_files() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


def test_no_file_names_another_host_and_html_holds_no_script() -> None:
    for each in STATIC.iterdir():
        if each.is_file():
            text = each.read_text(encoding="utf-8")
            hosts = set(re.findall(r"https?://([a-z0-9.-]+)", text)) - {"www.w3.org"}
            assert not hosts, (each.name, hosts)
            assert ".innerHTML" not in text
            assert "eval(" not in text
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", index)


def test_every_library_has_its_version_and_licence_in_one_place() -> None:
    told = (STATIC / "vendor" / "README.md").read_text(encoding="utf-8")
    for each in (STATIC / "vendor").iterdir():
        if each.name.endswith(".js"):
            assert f"`{each.name}`" in told
    assert sum(len(document.gzipped or document.body) for document in documents().values()) < 200_000
