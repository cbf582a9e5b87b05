"""The page at /ui/ in a real Chromium: every screen, hostile catalogs, changes as they come, and approving a draft.

Needs playwright and Chromium (`pip install playwright`, Debian's chromium-headless-shell), skipped loudly without.
CACHESERVER_TEST_AXE names axe-core's axe.min.js, which then looks at every screen.
"""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

import orjson
import pytest

from tests.e2e.conftest import StartServer
from tests.support import browser as support
from tests.support.browser import begin_draft, browser, opened, tab_to
from tests.support.fbc import catalog
from tests.support.gitserver import GitRepository
from tests.support.server import API, ServerProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
if support.CHROMIUM:
    from playwright.sync_api import expect

__all__ = ["browser"]
AXE = os.environ.get("CACHESERVER_TEST_AXE", "")
pytestmark = [pytest.mark.e2e, support.NEEDED]

EVIL: Final = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg"><script>window.hacked=1</script><circle r="4"/></svg>'
REPOSITORIES = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: c}}
spec: {{source: {{directory: {{path: "{catalog}"}}}}, interval: 1h}}
---
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: edge}}
spec: {{source: {{git: {{url: "{url}", ref: {{branch: main}}}}}}, format: KRM, access: ReadWrite}}
"""
SCREENS = (
    "#/",
    "#/?q=app&repo=c",
    "#/?q=nothing+of+the+kind",
    "#/package/default/c.app",
    "#/package/default/c.app?tab=versions",
    "#/package/default/c.app?tab=graph",
    "#/package/default/c.app?tab=needs",
    "#/package/default/c.app?tab=files",
    "#/package/default/c.app?tab=compare",
    "#/package/default/c.evil",
    "#/package/default/c.evil?tab=files",
    "#/package/default/c.evil?tab=graph",
    "#/package/default/no.such",
    "#/repositories",
    "#/changes",
    "#/changes?type=Deprecated",
    "#/drafts",
    "#/drafts/default/edge.shop.w1",
    "#/%zz/no/such/screen",
)


def _evil(root: Path) -> None:
    """A package that says of itself what would be run by a page that believes it."""
    csv = {
        "displayName": EVIL,
        "description": f"{EVIL}\n\n[click](javascript:window.hacked=1) <a href='javascript:window.hacked=1'>x</a>\n\n"
        "![picture](http://127.0.0.1:9/track.png) <style>body{display:none}</style>\n\n" + "long " * 100_000,
        "keywords": [EVIL],
        "provider": {"name": EVIL, "url": "javascript:window.hacked=1"},
        "annotations": {"categories": EVIL},
    }
    documents: list[dict[str, Any]] = [
        {
            "schema": "olm.package",
            "name": "evil",
            "defaultChannel": "a</text><script>window.hacked=1</script>",
            "icon": {"base64data": base64.b64encode(SVG).decode(), "mediatype": "image/svg+xml"},
        },
        {
            "schema": "olm.channel",
            "package": "evil",
            "name": "a</text><script>window.hacked=1</script>",
            "entries": [{"name": "evil.v1.0.0"}],
        },
        {
            "schema": "olm.bundle",
            "package": "evil",
            "name": "evil.v1.0.0",
            "image": "registry.example.com/evil:v1",
            "properties": [
                {"type": "olm.package", "value": {"packageName": "evil", "version": "1.0.0"}},
                {"type": "olm.gvk", "value": {"group": "x", "version": "v1", "kind": EVIL}},
                {"type": "olm.csv.metadata", "value": csv},
            ],
        },
    ]
    (root / "evil").mkdir(parents=True)
    (root / "evil" / "catalog.json").write_bytes(b"\n".join(map(orjson.dumps, documents)))


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "edge.git")


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path, git: GitRepository) -> ServerProcess:
    files = catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0", "1.2.0").package("db", "2.0.0")
    _evil(files.root)
    (tmp_path / "repositories.yaml").write_text(REPOSITORIES.format(catalog=files.root, url=git.url))
    server = start_server("--repositories", str(tmp_path / "repositories.yaml"), "--author", "Ada <ada@example.com>")
    until(lambda: len(server.names("packagerevisions")) == 5, within_s=30, otherwise=server.log)
    return server


def test_every_screen_is_whole_in_light_and_dark_on_a_desk_and_in_a_hand(
    browser: Browser, server: ServerProcess
) -> None:
    begin_draft(server)
    for width, scheme in ((1440, "light"), (1440, "dark"), (360, "light"), (360, "dark")):
        with opened(browser, server, width=width, scheme=scheme) as page:
            page.goto(f"{server.url}/ui/")
            for screen in SCREENS:
                page.evaluate("where => { location.hash = where }", screen)
                page.wait_for_selector("main :text-matches('.')")
                expect(page.locator(".waiting, :text('Loading…')")).to_have_count(0)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{screen} is {wide} px wide where there are {width}"
                if AXE:
                    _judged(page, screen)


def test_texts_that_are_made_to_take_minutes_are_shown_and_stop_nothing(
    browser: Browser, server: ServerProcess
) -> None:
    """Each took a minute and more, or more stack than there is; the tab was dead for whoever looked."""
    most = 190_000
    descriptions = ["**x* " * (most // 5), "a." * (most // 2) + "@", ">" * most, "- " * (most // 2) + "x"]
    files = {"a.yaml": '\\"' * (most // 2), "b.yaml": "- " * (most // 2), "c.yaml": "\n" * 3990 + "a" * most}
    files["d.json"] = files["a.yaml"]
    many = {f"f{number:04}": "".join(f"{number}.{line}\n" for line in range(600)) for number in range(400)}
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/")
        page.evaluate(_RENDER, [descriptions, files, many])
        page.wait_for_selector("body[data-shown]", timeout=120_000)
        shown = page.evaluate("window.shown")
    assert shown[: len(descriptions)] == [len(each.strip()) for each in descriptions], "as they are written"
    assert all(length >= 4000 for length in shown[len(descriptions) :])


_RENDER: Final = """([descriptions, files, many]) => void setTimeout(async () => {
  const { html, render } = await import("./vendor/preact.js");
  const { Code, Difference, Markdown } = await import("./text.js");
  const drawn = (what) => {
    const where = document.createElement("div");
    render(what, where);
    return where.textContent.trim().length;
  };
  const other = Object.fromEntries(Object.entries(many).map(([path, text]) => [path, text.replaceAll(".", ":")]));
  window.shown = [
    ...descriptions.map((text) => drawn(html`<${Markdown} text=${text} />`)),
    ...Object.entries(files).map(([path, text]) => drawn(html`<${Code} path=${path} text=${text} />`)),
    drawn(html`<${Difference} before=${many} after=${other} />`),
  ];
  document.body.dataset.shown = "";
})"""


def test_nobody_decides_about_files_that_he_has_not_seen(browser: Browser, server: ServerProcess) -> None:
    """An author saves other files in the moment in which somebody would approve what he has read."""
    begin_draft(server)
    path = f"{API}/namespaces/default/packagerevisionresources/edge.shop.w1"
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/drafts/default/edge.shop.w1")
        propose, look = (page.get_by_role("button", name=name) for name in ("Propose", "I see what they are now"))
        expect(propose).to_be_enabled()
        found = server.get(path)
        found["spec"]["resources"]["late.yaml"] = "saved: late\n"
        save = Request(server.url + path, orjson.dumps(found), {"Content-Type": "application/json"}, method="PUT")
        urlopen(save, timeout=30).close()
        expect(look).to_be_visible()
        expect(propose).to_be_disabled()
        expect(page.get_by_text("saved: late")).to_be_visible()
        look.click()
        expect(look).to_have_count(0)
        propose.click()
        expect(page.get_by_role("button", name="Approve and publish")).to_be_enabled()


def test_a_package_is_shown_whatever_its_directory_is_called(
    browser: Browser, server: ServerProcess, git: GitRepository
) -> None:
    """A comma would begin another term of the selector that its versions are asked by."""
    kptfile = b"apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {name: odd}\n"
    git.commit({"shop,spec.repository=c/a\\b/Kptfile": kptfile})
    server.signal(signal.SIGHUP)
    until(lambda: any("shop" in name for name in server.names()), within_s=60, otherwise=server.log)
    [name] = [name for name in server.names() if "shop" in name]
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/package/default/{name}?tab=versions")
        expect(page.locator("td.one a", has_text="main")).to_be_visible()


def _judged(page: Page, screen: str) -> None:
    page.evaluate(Path(AXE).read_text(encoding="utf-8") + ";0")
    found = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']})"
        ".then((all) => all.violations.map((one) => [one.id, one.nodes.map((node) => node.html).slice(0, 3)]))"
    )
    assert found == [], f"{screen}: {found}"


def test_what_a_catalog_says_of_itself_is_shown_and_never_run(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/package/default/c.evil")
        # As text, for everybody to see what it is.
        expect(page.locator("h1")).to_have_text(EVIL)
        expect(page.locator(".text")).to_contain_text("<script>window.hacked=1</script>")
        expect(page.locator(".text")).to_contain_text("picture")
        assert page.locator(".text img, .text script, .text style, .text iframe").count() == 0
        expect(page.locator(".text")).to_contain_text("click")
        for link in page.locator("main a[href]").all():
            assert (link.get_attribute("href") or "").startswith(("#/", "http://", "https://", "/apis/"))
        page.locator("text=first 200,000 characters").wait_for()
        page.locator(".text :text('click')").first.click()


def test_a_package_is_found_and_read_with_the_keyboard_alone(browser: Browser, server: ServerProcess) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/")
        page.wait_for_selector(".card")
        page.keyboard.type("app")
        expect(page.locator(".card")).to_have_count(1)
        assert "q=app" in page.url
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.className") == "card":
                break
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("App")
        page.reload()
        expect(page.locator("h1")).to_have_text("App")
        page.go_back()
        expect(page.locator(".card")).to_have_count(1)


def test_the_graph_versions_files_and_differences_are_reached_with_the_keyboard_alone(
    browser: Browser, server: ServerProcess
) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/package/default/c.app")
        expect(page.locator("h1")).to_have_text("App")
        tab_to(page, "Upgrades")
        page.keyboard.press("Enter")
        page.wait_for_selector("svg.graph .row")
        tab_to(page, "1.2.0")  # one stop for all versions, the arrows move between them
        page.keyboard.press("ArrowDown")
        expect(page.locator("aside h2")).to_have_text("1.1.0")
        expect(page.locator("aside")).to_contain_text("1.0.0 replaces")
        page.keyboard.press("End")
        expect(page.locator("aside")).to_contain_text("Nothing leads here")
        page.keyboard.press("Enter")
        expect(page.locator("select")).to_have_value("c.app.1.0.0")
        tab_to(page, "Compare")
        page.keyboard.press("Enter")
        expect(page.locator(".diff h3").first).to_contain_text("bundle.json")
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "SELECT":
                break
        page.keyboard.press("End")  # the oldest, with itself
        tab_to(page, "Files")
        page.keyboard.press("Enter")
        expect(page.locator("pre.code")).to_contain_text("app.v1.0.0")


def test_what_a_version_needs_leads_to_who_gives_it_and_a_mirror_gets_its_images(
    browser: Browser, start_server: StartServer
) -> None:
    server = start_server("--catalog", f"example={Path(__file__).parents[2] / 'examples' / 'catalogs'}")
    until(lambda: len(server.names("packages")) == 5, within_s=60, otherwise=server.log)
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/package/default/example.lantern-operator?tab=needs")
        row = page.locator("tr:has-text('LedgerCluster')")
        expect(row).to_contain_text("met")
        row.get_by_role("link", name="ledger-operator 1.4.1").click()
        expect(page.locator(".title h1")).to_have_text("Ledger")
        expect(page.locator("select")).to_have_value("example.ledger-operator.1.4.1")
        page.click("a:text('Upgrades')")
        versions = page.locator("svg.graph .row text")
        expect(versions).to_have_text(["2.0.0-rc.1", "1.4.1", "1.4.0", "1.3.0", "1.2.0"])
        page.select_option("select", "candidate")
        expect(versions).to_have_text(["2.0.0-rc.1", "1.4.1"])
        page.click("a:text('Versions')")
        page.wait_for_selector("a:text('its images')")  # before it the graph's own choice of a channel stands there
        page.select_option("select", "stable")
        for name, holds in (("its images", b"registry.example.com"), ("its catalog", b"olm.channel")):
            with page.expect_download() as made:
                page.click(f"a:text('{name}')")
            assert holds in made.value.path().read_bytes()


def test_a_change_of_the_source_appears_without_a_reload(
    browser: Browser, server: ServerProcess, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/")
        expect(page.locator("text=3 of 3 packages")).to_be_visible()
        began = time.perf_counter()
        catalog(tmp_path / "c").package("new", "1.0.0")
        server.signal(signal.SIGHUP)
        expect(page.locator("text=4 of 4 packages")).to_be_visible()
        record_property("seconds from the source to the page", time.perf_counter() - began)  # bench page judges them
        # and after the server was away
        server.kill()
        expect(page.locator("[role=alert]")).to_contain_text("cannot be reached")
        server.start()
        expect(page.locator("[role=alert]")).to_have_count(0, timeout=60_000)
        expect(page.locator("text=4 of 4 packages")).to_be_visible()


def test_a_draft_is_proposed_and_approved_by_its_buttons(
    browser: Browser, server: ServerProcess, git: GitRepository
) -> None:
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/#/drafts")
        expect(page.locator("main")).to_contain_text("Nobody is working on anything")
        begin_draft(server)
        page.click("a:text('shop')")
        expect(page.locator(".diff h3").first).to_contain_text("Kptfile (new)")
        page.click("button:text('Propose')")
        page.wait_for_selector("button:text('Approve and publish')")
        expect(page.locator("text=Git refused")).to_have_count(0)
        # and by the keyboard alone, from the top of the page
        page.evaluate("document.activeElement.blur()")
        tab_to(page, "Approve and publish")
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_contain_text("Published as v1", timeout=60_000)
        assert git.git("tag", "--list") == "shop/v1"


def test_the_first_load_is_small_and_a_long_list_keeps_the_page_small(
    browser: Browser, start_server: StartServer, tmp_path: Path
) -> None:
    files = catalog(tmp_path / "many")
    for number in range(300):
        files.package(f"package-{number:04d}", "1.0.0")
    server = start_server("--catalog", f"many={files.root}")
    until(lambda: len(server.names("packages")) == 300, within_s=60, otherwise=server.log)
    with opened(browser, server) as page:
        page.goto(f"{server.url}/ui/")
        expect(page.locator("text=300 of 300 packages")).to_be_visible()
        sizes = page.evaluate(
            "performance.getEntriesByType('resource').filter((e) => e.name.includes('/ui/'))"
            ".concat(performance.getEntriesByType('navigation')).map((e) => e.encodedBodySize)"
        )
        assert len(sizes) >= 6
        assert sum(sizes) < 200_000
        for to in (0, 5_000, 9_000, 10**9):
            page.evaluate("to => scrollTo(0, to)", to)
            page.wait_for_selector(".card")
            assert page.locator(".card").count() < 100
        expect(page.locator(".card").last).to_contain_text("Package-0299")
