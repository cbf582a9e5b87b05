"""The page at /ui/ with many packages in a real Chromium: first load, frames while it scrolls, search as one types,
memory of the tab, how soon a change of a source is there.

Needs playwright, and Debian's chromium-headless-shell or chromium on PATH. Frames are counted by requestAnimationFrame
while a script scrolls; a headless Chromium draws on the CPU, so on a machine with other work they say what is left of
it.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from bench import processes
from bench.errors import BenchError
from bench.load import fill
from bench.options import Options
from bench.report.table import Report, Sample

if TYPE_CHECKING:
    from playwright.sync_api import Page

_FRAMES: Final = 300
_STEP_PX: Final = 170
"""A frame: a card and more, ten thousand pixels a second."""
_LONG_MS: Final = 50
_SCROLL: Final = """
([frames, step]) => new Promise((done) => {
  const took = [];
  let before = 0, left = frames;
  const frame = (now) => {
    if (before) took.push(now - before);
    before = now;
    if (!left--) return done(took);
    scrollBy(0, step);
    requestAnimationFrame(frame);
  };
  scrollTo(0, 0);
  requestAnimationFrame(frame);
})
"""
_LOADED: Final = """
() => {
  const own = performance.getEntriesByType("resource").filter((each) => each.name.includes("/ui/"));
  return [...own, ...performance.getEntriesByType("navigation")].reduce((sum, each) => sum + each.encodedBodySize, 0);
}
"""
_LONG: Final = """
window.long = [];
new PerformanceObserver((list) => window.long.push(...list.getEntries().map((each) => each.duration)))
  .observe({entryTypes: ["longtask"]});
"""
_ADDED: Final = 7
"""Packages that come, one after the other, in a round."""
_APPEARS: Final = """
(text) => {
  let go;
  window.appeared = new Promise((done) => (go = done));
  const seen = new MutationObserver(() => {
    if (!document.querySelector("main").textContent.includes(text)) return;
    seen.disconnect();
    requestAnimationFrame(() => go(performance.timeOrigin + performance.now()));
  });
  seen.observe(document, {childList: true, subtree: true, characterData: true});
}
"""
_FIRST_CARD: Final = """
new MutationObserver((_, self) => {
  if (!document.querySelector("a.card")) return;
  self.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => (window.firstCard = performance.now())));
}).observe(document, {childList: true, subtree: true});
"""


def measure(options: Options, report: Report) -> None:
    """Raises: BenchError, also where there is no browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as exc:
        raise BenchError("page: there is no playwright here (pip install playwright)") from exc
    binary = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if binary is None:
        raise BenchError("page: neither chromium-headless-shell nor chromium is on PATH")
    with processes.etcd(options.etcd, options.work) as etcd:
        processes.ask("bench.load.fill", fill.Fill(etcd.endpoint, options.shape), fill.Filled, options.work)
        live = options.work / "live"
        live.mkdir()
        (live / "catalog.json").write_bytes(_package("begun"))
        flags = [f"--catalog=live={live}"]
        with processes.server(etcd, options.work, flags) as server, sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if os.getuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=binary, args=arguments)
            report.note(f"Chromium {browser.version}, {options.shape.packages:,} packages, 1,440 x 900 px")
            for at in range(options.rounds):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                packages = options.shape.packages + 1 + at * _ADDED
                _round(page, f"{server.target.url}/ui/", packages, report)
                _changed(page, server.child, live, packages, report)
                page.context.close()
            browser.close()


def _round(page: Page, url: str, packages: int, report: Report) -> None:
    page.add_init_script(_LONG + _FIRST_CARD)
    page.goto(url)
    page.wait_for_selector("a.card")
    page.wait_for_timeout(100)
    first_ms = float(page.evaluate("window.firstCard"))
    page.wait_for_selector(f"text={packages:,} of {packages:,} packages", timeout=60_000)
    whole_ms = float(page.evaluate("performance.now()"))
    longest = max(page.evaluate("window.long"), default=0.0)
    parts = {"all_packages_ms": whole_ms, "kB": page.evaluate(_LOADED) / 1e3, "longest_task_ms": longest}
    report.add("first card is drawn", Sample(first_ms, "ms", parts, "under 1,000 ms, 200 kB"))
    page.wait_for_timeout(1_000)
    _scrolled(page, report)
    _typed(page, report)
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used: Any = session.send("Runtime.getHeapUsage")
    counters: Any = session.send("Memory.getDOMCounters")
    report.add("memory of the tab's scripts", Sample(used["usedSize"] / 1e6, "MB", {"nodes": counters["nodes"]}))


def _changed(page: Page, server: processes.Child, live: Path, packages: int, report: Report) -> None:
    """From a signal behind a change of the source to the frame that has it."""
    took_ms: list[float] = []
    for more in range(1, _ADDED + 1):
        count = packages + more
        page.evaluate(_APPEARS, f"{count:,} of {count:,} packages")
        (live / f"{count}.json").write_bytes(_package(f"added-{count}"))
        began_ms = time.time() * 1e3
        server.popen.send_signal(signal.SIGHUP)
        took_ms.append(float(page.evaluate("window.appeared")) - began_ms)
    took_ms.sort()
    parts = {"least_ms": took_ms[0], "most_ms": took_ms[-1]}
    report.add(
        "a change of the source is on the page", Sample(took_ms[len(took_ms) // 2], "ms", parts, "under 2,000 ms")
    )


def _package(name: str) -> bytes:
    bundle = f"{name}.v1.0.0"
    version = {"type": "olm.package", "value": {"packageName": name, "version": "1.0.0"}}
    documents: list[dict[str, object]] = [
        {"schema": "olm.package", "name": name, "defaultChannel": "stable"},
        {"schema": "olm.channel", "package": name, "name": "stable", "entries": [{"name": bundle}]},
        {"schema": "olm.bundle", "package": name, "name": bundle, "image": "r.example/a:v1", "properties": [version]},
    ]
    return b"\n".join(map(orjson.dumps, documents))


def _scrolled(page: Page, report: Report) -> None:
    page.evaluate("window.long = []")
    took = sorted(page.evaluate(_SCROLL, [_FRAMES, _STEP_PX]))
    long = page.evaluate("window.long")
    parts = {
        "p95_ms": took[len(took) * 95 // 100],
        "max_ms": took[-1],
        f"tasks_over_{_LONG_MS}_ms": float(len(long)),
    }
    report.add("scrolling", Sample(1000 * len(took) / sum(took), "frames/s", parts, "50 or more"))
    page.evaluate("scrollTo(0, 0)")


def _typed(page: Page, report: Report) -> None:
    """From the last key to what the server found."""
    page.evaluate("window.long = []")
    page.click("input[type=search]")
    page.keyboard.type("operat", delay=40)
    began = time.perf_counter()
    with page.expect_response(lambda each: "packagesearches" in each.url):
        page.keyboard.type("o")
    page.wait_for_selector("section[aria-busy=false] a.card")
    took_ms = (time.perf_counter() - began) * 1e3
    longest = max(page.evaluate("window.long"), default=0.0)
    report.add("found, after the last key", Sample(took_ms, "ms", {"longest_task_ms": longest}))
    page.fill("input[type=search]", "")
