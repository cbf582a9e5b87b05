"""A real Chromium for tests of the page: Debian's, through playwright. Skipped loudly where there is none.

`NEEDED` is the mark of such tests; `browser` a fixture to import; `opened` a page that fails the test for whatever it
complains of, and for every request that leaves the server.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from tests.support.server import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
try:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
except ImportError:
    CHROMIUM = None

NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM OR PLAYWRIGHT FOUND: the page was not looked at")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, server: ServerProcess, *, width: int = 1440, scheme: str = "light") -> Iterator[Page]:
    """A page that may say nothing on its console, break no policy, and ask nobody but this server."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=cast(Any, scheme))
    context.add_init_script(
        "addEventListener('securitypolicyviolation',"
        " (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`))"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    # What is refused is shown to the user; the browser notes it as well.
    expected = "Failed to load resource"
    page.on(
        "console",
        lambda m: complaints.append(m.text) if m.type in ("error", "warning") and expected not in m.text else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith((server.url, "data:")) else None)
    page.on("dialog", lambda dialog: dialog.accept())
    yield page
    page.unroute_all(behavior="ignoreErrors")
    assert page.evaluate("window.hacked") is None
    context.close()
    assert complaints == []


def tab_to(page: Page, text: str) -> None:
    """Presses Tab until what has this text has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        here = page.locator("a:focus, button:focus, .row:focus")
        if here.count() and text in (here.text_content() or ""):
            return
    raise AssertionError(f"Tab does not lead to {text!r}")


def begin_draft(server: ServerProcess) -> None:
    """A draft of package `shop`, edge.shop.w1, in the repository `edge`."""
    import urllib.request

    draft = {
        "apiVersion": "cacheserver.dev/v1alpha1",
        "kind": "PackageRevision",
        "metadata": {"namespace": "default"},
        "spec": {"repository": "edge", "packageName": "shop", "workspaceName": "w1"},
    }
    path = "/apis/cacheserver.dev/v1alpha1/namespaces/default/packagerevisions"
    request = urllib.request.Request(server.url + path, orjson.dumps(draft), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
