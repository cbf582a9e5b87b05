"""Pictures of the page for the README, from a real server: `python -m tools.screenshots`.

Starts a server on the examples and on a git repository that begins empty, makes a draft in it, and looks at three
screens with Debian's chromium-headless-shell through playwright. Writes docs/figures/page-*.png.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, sync_playwright

ROOT: Final = Path(__file__).parents[1]
OUT: Final = ROOT / "docs" / "figures"
PORT: Final = 8473
BASE: Final = f"http://127.0.0.1:{PORT}"
API: Final = f"{BASE}/apis/cacheserver.dev/v1alpha1/namespaces/default"
WIDTH: Final = 1200
REPOSITORIES: Final = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: example}}
spec: {{source: {{directory: {{path: "{root}/examples/catalogs"}}}}}}
---
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: blueprints}}
spec: {{source: {{directory: {{path: "{root}/examples/authoring/blueprints"}}}}, format: KRM}}
---
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: edge}}
spec: {{source: {{git: {{url: "file://{home}/edge.git", ref: {{branch: main}}}}}}, format: KRM, deployment: true}}
"""
Object = dict[str, Any]


def main() -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", home / "edge.git"], check=True)
        (home / "repositories.yaml").write_text(REPOSITORIES.format(root=ROOT, home=home), encoding="utf-8")
        flags = ["--repositories", str(home / "repositories.yaml"), "--data-dir", str(home / "data")]
        command = [sys.executable, "-m", "cacheserver", "serve", "--listen", f"127.0.0.1:{PORT}", *flags]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                _until(lambda: len(_get("packages")["items"]) >= 6)
                _proposal()
                _pictures()
            finally:
                server.terminate()


def _get(path: str) -> Object:
    with urllib.request.urlopen(f"{API}/{path}", timeout=5) as answer:  # noqa: S310
        found: Object = json.load(answer)
        return found


def _send(method: str, path: str, body: Object) -> Object:
    request = urllib.request.Request(  # noqa: S310
        f"{API}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found: Object = json.load(answer)
        return found


def _until(holds: Any, within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.2)


def _proposal() -> None:
    """berlin is published, and a change of it proposed."""
    for workspace, source in (("first", {"clone": {"revision": "blueprints.site.local"}}), ("second", None)):
        spec: Object = {"repository": "edge", "packageName": "berlin", "workspaceName": workspace}
        spec["source"] = source or {"copy": {"revision": "edge.berlin.first"}}
        draft = {"apiVersion": "cacheserver.dev/v1alpha1", "kind": "PackageRevision", "metadata": {}, "spec": spec}
        _send("POST", "packagerevisions", draft)
        name = f"edge.berlin.{workspace}"
        if not source:
            files = _get(f"packagerevisionresources/{name}")
            texts = files["spec"]["resources"]
            path = next(path for path in texts if "replicas: 1" in texts[path])
            texts[path] = texts[path].replace("replicas: 1", "replicas: 3")
            _send("PUT", f"packagerevisionresources/{name}", files)
        steps = ("Proposed", "Published") if source else ("Proposed",)
        for lifecycle in steps:
            one = _get(f"packagerevisions/{name}")
            one["spec"]["lifecycle"] = lifecycle
            _send("PUT", f"packagerevisions/{name}{'/approval' if lifecycle == 'Published' else ''}", one)
            _until(lambda name=name, to=lifecycle: _get(f"packagerevisions/{name}")["spec"]["lifecycle"] == to)


def _pictures() -> None:
    with sync_playwright() as playwright:
        binary = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 560})
        _picture(page, "grid", "#/", ".card >> nth=5")
        _picture(page, "graph", "#/package/default/example.ledger-operator?tab=graph", "svg.graph")
        _picture(page, "approval", "#/drafts/default/edge.berlin.second", ".diff")
        browser.close()


def _picture(page: Page, name: str, where: str, shown: str) -> None:
    page.goto(f"{BASE}/ui/{where}")
    page.wait_for_selector(shown)
    page.wait_for_timeout(500)  # icons
    page.screenshot(path=OUT / f"page-{name}.png")


if __name__ == "__main__":
    main()
