"""What the page at /ui/ shows when all is not well: nothing there, slow, refused, logged out, cut off. In Chromium.

What goes wrong is put between the page and a real server by the browser itself; time is the browser's, put forward.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import browser as support
from tests.support.browser import browser, opened
from tests.support.etcd import FoundEtcd
from tests.support.fbc import catalog
from tests.support.server import ServerProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route
if support.CHROMIUM:
    from playwright.sync_api import expect

__all__ = ["browser"]
pytestmark = [pytest.mark.e2e, support.NEEDED]

PACKAGES = "**/v1alpha1/packages?*"
SEARCHES = "**/packagesearches"
API = "**/apis/**"


@pytest.fixture(scope="module")
def server(etcd_binary: FoundEtcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Three packages; one for all of these tests, which change nothing on it."""
    home = tmp_path_factory.mktemp("states")
    files = catalog(home / "c").package("app", "1.0.0", "1.1.0").package("apron", "1.0.0").package("db", "2.0.0")
    own = ("--data-dir", str(home / "data"), "--etcd-binary", str(etcd_binary.path))
    server = ServerProcess(home, "--catalog", f"c={files.root}", *own)
    server.start()
    try:
        until(lambda: len(server.names("packages")) == 3, within_s=30, otherwise=server.log)
        yield server
    finally:
        server.stop()


def refused(status: int) -> Any:
    body = json.dumps({"kind": "Status", "message": f"refused with {status}", "code": status})
    return lambda route: route.fulfill(status=status, content_type="application/json", body=body)


def spec_of(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.post_data or "")["spec"]
    return found


def cards(page: Page) -> list[str]:
    found: list[str] = page.locator(".card h2").all_text_contents()
    return found


def test_a_server_without_packages_says_where_to_look(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        empty = '{"metadata": {"resourceVersion": "1"}, "items": []}'

        def nothing(route: Route) -> None:
            if "watch=1" not in route.request.url:  # the watch just hangs
                route.fulfill(status=200, content_type="application/json", body=empty)

        page.route(PACKAGES, nothing)
        page.goto(f"{server.url}/ui/")
        expect(page.locator(".empty")).to_contain_text("There are no packages yet")
        page.unroute(PACKAGES)
        page.click(".empty a:text('Repositories')")
        expect(page.locator("section[aria-label=c]")).to_contain_text("3 packages")


def test_the_server_ranks_and_counts_what_is_found(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/?q=quantum")
        expect(page.locator(".empty")).to_contain_text("Nothing matches")

        def other_way_round(route: Route) -> None:
            answer = route.fetch()
            told = answer.json()
            told["status"]["results"].reverse()
            told["status"]["total"] = 4321
            for facet in told["status"]["facets"]:
                if facet["name"] == "repository":
                    facet["values"] = [{"value": "c", "count": 4000}, {"value": "elsewhere", "count": 321}]
            route.fulfill(response=answer, json=told)

        page.route(SEARCHES, other_way_round)
        page.fill("input[type=search]", "ap")
        expect(page.locator("text=4,321 of 3 packages")).to_be_visible()
        assert cards(page) == ["Apron", "App"]  # the server would have had App first
        expect(page.locator("label:has-text('elsewhere')")).to_contain_text("321")
        with page.expect_request(SEARCHES) as asked:
            page.check("label:has-text('elsewhere') input")
        assert spec_of(asked.value) == {"text": "ap", "repositories": ["elsewhere"], "limit": 100}


def test_an_older_search_is_let_go_and_its_late_answer_not_shown(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        held: list[Route] = []
        gone: list[str] = []

        def text(request: Request) -> str:
            return str(spec_of(request)["text"])

        def hold_the_first(route: Route) -> None:
            if text(route.request) == "db":
                held.append(route)
            else:
                route.continue_()

        page.on("requestfailed", lambda r: gone.append(text(r)) if "packagesearches" in r.url else None)
        page.route(SEARCHES, hold_the_first)
        page.goto(f"{server.url}/ui/")
        with page.expect_request(SEARCHES):
            page.fill("input[type=search]", "db")
        page.fill("input[type=search]", "apron")
        expect(page.locator(".card")).to_have_count(1)
        assert cards(page) == ["Apron"]
        assert gone == ["db"]
        assert len(held) == 1


def test_one_thing_that_fails_leaves_the_rest_and_is_tried_again(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        page.route("**/packagerevisionresources/**", refused(500))
        page.goto(f"{server.url}/ui/#/package/default/c.app")
        alert = page.locator("[role=alert]")
        expect(alert).to_contain_text("The description cannot be read: refused with 500.")
        expect(page.locator("aside")).to_contain_text("1.1.0")
        page.unroute("**/packagerevisionresources/**")
        alert.locator("button").click()
        expect(alert).to_have_count(0)


def test_what_hangs_shows_a_shape_then_a_word_and_can_be_tried_again(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        page.clock.install()
        page.route(PACKAGES, lambda route: None)
        with page.expect_request(PACKAGES):
            page.goto(f"{server.url}/ui/")
        expect(page.locator(".ghost").first).to_be_visible()
        assert page.locator("text=takes long to answer").count() == 0
        page.clock.run_for(5_000)
        page.clock.resume()
        expect(page.locator("text=takes long to answer")).to_be_visible()
        page.route(PACKAGES, lambda route: route.continue_())  # of what comes now; the first one hangs on
        page.click("button:text('Try again')")
        expect(page.locator(".card")).to_have_count(3)


def told(number: int) -> dict[str, Any]:
    spec = {"repository": "c", "packageName": f"p{number}", "changes": [{"type": "Deprecated"}]}
    about = {"object": {"kind": "Package", "name": f"c.p{number}"}, "summary": f"package deprecated: no. {number}"}
    at = f"2026-11-{1 + number // 20:02}T10:00:00Z"
    metadata = {"namespace": "default", "name": f"n{number:04}", "uid": str(number), "creationTimestamp": at}
    return {"metadata": metadata, "spec": spec | about}


def test_of_many_changes_the_newest_come_first_and_older_ones_as_one_scrolls_or_looks_for_them(
    browser: Browser, server: ServerProcess
) -> None:
    many = [told(number) for number in reversed(range(450))]
    with opened(browser, server) as page:
        asked: list[str] = []

        def listed(route: Route) -> None:
            url = route.request.url
            if "watch=1" in url:
                return  # it just hangs
            asked.append(url)
            limit, at = (int((url + f"&{name}=0").split(f"{name}=")[1].split("&")[0]) for name in ("limit", "continue"))
            metadata = {"resourceVersion": "1"} | ({"continue": str(at + limit)} if at + limit < len(many) else {})
            route.fulfill(json={"metadata": metadata, "items": many[at : at + limit]})

        page.route("**/packagechanges?*", lambda route: None)
        page.goto(f"{server.url}/ui/#/changes")
        expect(page.locator(".ghost").first).to_be_visible()
        page.route("**/packagechanges?*", listed)
        page.reload()
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(200)
        expect(rows.first).to_contain_text("no. 449")
        assert len(asked) == 1
        for count in (400, 450):
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            expect(rows).to_have_count(count)
        expect(page.locator("button:text('Show older')")).to_have_count(0)
        assert all("order=newest" in url for url in asked)
        page.goto(f"{server.url}/ui/#/changes?q=no.+7")
        page.reload()
        expect(rows.last).to_contain_text("no. 7")  # among the oldest, which nobody scrolled to
        page.fill("input[type=search]", "nothing of the kind")
        expect(page.locator(".empty")).to_contain_text("Nothing like that has changed")
        page.route("**/packagechanges?*continue*", refused(500))
        page.evaluate("location.hash = '#/changes'")
        page.reload()
        expect(rows).to_have_count(200)
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(page.locator("[role=alert]")).to_contain_text("What is older cannot be read: refused with 500.")
        page.unroute("**/packagechanges?*continue*")
        page.click("button:text('Try again')")
        expect(rows).to_have_count(400)


@pytest.mark.parametrize("way", ["401", "a redirect to a login"])
def test_a_login_that_ends_loses_nothing(browser: Browser, server: ServerProcess, way: str) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/?repo=c")
        expect(page.locator(".card")).to_have_count(3)
        login = lambda route: route.fulfill(status=302, headers={"Location": "/login"})  # noqa: E731
        page.route(API, refused(401) if way == "401" else login)
        page.fill("input[type=search]", "apron")
        banner = page.locator(".login")
        expect(banner).to_contain_text("Your login has ended")
        expect(page.locator("input[type=search]")).to_have_value("apron")
        expect(page.locator(".card")).to_have_count(3)  # as it was
        page.unroute(API)
        banner.locator("button").click()
        expect(banner).to_have_count(0)
        expect(page.locator(".card")).to_have_count(1)
        assert "repo=c" in page.url


def test_who_may_not_read_everything_chooses_a_namespace_for_all_screens(
    browser: Browser, server: ServerProcess
) -> None:
    with opened(browser, server) as page:
        everywhere = "**/v1alpha1/*?*"  # namespaces are a level further down
        page.route(everywhere, refused(403))
        page.goto(f"{server.url}/ui/#/repositories")
        expect(page.locator("main")).to_contain_text("You may not read the repositories of all namespaces")
        page.fill("input", "default")
        page.keyboard.press("Enter")
        expect(page.locator("section[aria-label=c]")).to_be_visible()
        page.click("nav a:text('Drafts')")
        expect(page.locator("main")).to_contain_text("Nobody is working on anything")
        page.click("nav a:text('What is new')")
        expect(page.locator("main")).to_contain_text("repository added: 3 packages")
        page.evaluate("location.hash = '#/changes'")
        expect(page.locator("main")).to_contain_text("You may not read the changes of all namespaces")
        page.evaluate("history.back()")
        page.click("nav a:text('Packages')")
        expect(page.locator(".card")).to_have_count(3)
        page.click(".card >> nth=0")  # wherever he goes from here, it is in his namespace
        expect(page.locator("h1")).to_contain_text("App")
        page.click("nav a:text('Repositories')")
        page.click("section[aria-label=c] a:text('3 packages')")
        expect(page.locator(".card")).to_have_count(3)
        # Who may read and not search is told so, and can look through what there is.
        page.route(SEARCHES, refused(403))
        page.fill("input[type=search]", "app")
        expect(page.locator("[role=alert]")).to_contain_text("You may not search here")


def test_a_watch_that_is_cut_goes_on_where_it_was_and_a_version_too_old_is_listed_anew(
    browser: Browser, server: ServerProcess
) -> None:
    with opened(browser, server) as page:
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url) if "/packages?" in r.url else None)
        page.goto(f"{server.url}/ui/")
        expect(page.locator(".card")).to_have_count(3)
        server.kill()
        stale = page.locator("[role=alert]")
        expect(stale).to_contain_text("what you see may be old")
        expect(page.locator(".card")).to_have_count(3)
        server.start()
        expect(stale).to_have_count(0)
        assert sum("watch=1" not in url for url in asked) == 1  # the list is not asked for again
        versions = {url.partition("resourceVersion=")[2].partition("&")[0] for url in asked if "watch=1" in url}
        assert len(versions) == 1
        gone = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
        page.route("**/packages?*watch=1*", lambda route: route.fulfill(status=200, body=gone + "\n"), times=1)
        server.kill()
        expect(stale).to_be_visible()
        with page.expect_request(lambda r: "/packages?" in r.url and "watch=1" not in r.url):
            server.start()
        expect(stale).to_have_count(0)
        expect(page.locator(".card")).to_have_count(3)
