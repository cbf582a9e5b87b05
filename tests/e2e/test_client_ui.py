"""`kubectl cacheserver ui`: who may come through it, and for what. Asked by a plain client that says what it likes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.test_kubectl import needs_kubectl
from tests.support.fbc import catalog
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, needs_kubectl]

PACKAGES = "/apis/cacheserver.dev/v1alpha1/packages"
REVISION = "/apis/cacheserver.dev/v1alpha1/namespaces/default/packagerevisions/c.app.1.0.0"


@dataclass
class Opened:
    """A `ui` under way: its port, the secret of its address, and the cookie that this client has of it."""

    process: subprocess.Popen[str]
    port: int
    secret: str
    cookie: str = ""
    hosts: list[str] = field(default_factory=list)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        if self.cookie and "Cookie" not in sent:
            sent["Cookie"] = self.cookie
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def begin(self) -> None:
        """Comes in by the secret."""
        status, headers, _ = self.ask(f"/begin?secret={self.secret}")
        assert status == 303
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]

    @property
    def own(self) -> dict[str, str]:
        """What a browser says of our page's own requests."""
        return {"Origin": f"http://127.0.0.1:{self.port}", "Sec_Fetch_Site": "same-origin"}


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path) -> ServerProcess:
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    until(lambda: len(server.names()) == 1, within_s=60, otherwise=server.log)
    return server


@pytest.fixture(params=["direct", "kubectl"])
def opened(request: pytest.FixtureRequest, server: ServerProcess, tmp_path: Path) -> Iterator[Opened]:
    flags = ["--server", server.url]
    if request.param == "kubectl":
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
            "users": [{"name": "u", "user": {"token": "a-secret-token"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        flags = ["--kubeconfig", str(tmp_path / "kubeconfig")]
    # Signals as at a terminal, also where the tests run in the background, which is told to ignore some of them.
    command = ["env", "--default-signal", sys.executable, "-m", "cacheserver.client.main", "ui", "--no-browser", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            at = urlsplit(process.stdout.readline().strip())
            assert (at.hostname, at.path) == ("127.0.0.1", "/begin")
            assert at.port is not None
            yield Opened(process, at.port, at.query.removeprefix("secret="))
        finally:
            process.terminate()
            process.wait(20)


def test_one_browser_comes_in_once_and_sees_the_page_and_what_it_shows(opened: Opened) -> None:
    assert opened.ask("/ui/")[0] == 401
    assert opened.ask("/begin?secret=guessed")[0] == 401
    opened.begin()
    status, headers, body = opened.ask("/ui/")
    assert (status, b"<!doctype html>" in body) == (200, True)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    # A browser sends the cookies of all ports, also those that Python's reader of cookies gives up at.
    assert opened.ask("/ui/", Cookie=f'theme={{"dark": true}}; {opened.cookie}; odd')[0] == 200
    status, headers, body = opened.ask(PACKAGES)
    assert (status, [item["metadata"]["name"] for item in json.loads(body)["items"]]) == (200, ["c.app"])
    assert not [name for name in headers if name.lower().startswith("access-control")]
    status, _, body = opened.ask(
        f"{PACKAGES}?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    )
    assert (status, b'"ADDED"' in body) == (200, True)
    assert opened.ask("/ui/../../etc/passwd")[0] == 404
    opened.cookie = ""
    assert opened.ask(f"/begin?secret={opened.secret}")[0] == 401


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_the_proxy_with_the_users_rights_goes_however_it_is_ended(opened: Opened, number: signal.Signals) -> None:
    """^C, a kill, and a terminal that is closed."""
    pid = opened.process.pid
    proxies = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    opened.process.send_signal(number)
    opened.process.wait(20)
    assert [proxy for proxy in proxies if Path(f"/proc/{proxy}").exists()] == []


def test_other_pages_names_and_users_of_the_machine_do_not_come_through(opened: Opened) -> None:
    opened.begin()
    for host in (
        "evil.example",
        f"evil.example:{opened.port}",
        "127.0.0.1",
        f"127.0.0.1:{opened.port}.evil.example",
        "",
    ):
        assert opened.ask(PACKAGES, Host=host)[0] == 403, host
    assert opened.ask(PACKAGES, Host=f"localhost:{opened.port}")[0] == 200
    for cookie in (
        "",
        "x=y",
        opened.cookie[:-1],
        opened.cookie.upper(),
        f"cacheserver-1={opened.cookie.partition('=')[2]}",
    ):
        assert opened.ask(PACKAGES, Cookie=cookie or "none=1")[0] == 401, cookie
    review = b'{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{}}'
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert opened.ask(path, "POST", review)[0] == 403
    for origin in ("https://evil.example", "null", f"http://evil.example:{opened.port}"):
        assert opened.ask(path, "POST", review, Origin=origin)[0] == 403
    assert opened.ask(path, "POST", review, Origin=opened.own["Origin"], Sec_Fetch_Site="cross-site")[0] == 403
    assert opened.ask(path, "POST", review, Content_Type="application/json", **opened.own)[0] in (201, 404)


def test_it_asks_for_packages_alone_and_only_reads_unless_told(opened: Opened) -> None:
    opened.begin()
    for path in (
        "/api/v1/secrets",
        "/api/v1/namespaces/default/pods/x/exec",
        "/apis/apps/v1/deployments",
        "/apis/cacheserver.dev/v1alpha1/../../../api/v1/secrets",
        "/apis/cacheserver.dev/v1alpha1/%2e%2e/%2e%2e/%2e%2e/api/v1/secrets",
        "/apis/cacheserver.dev/v1alpha1/%252e%252e/x",
        "/apis/cacheserver.dev/v1alpha1/..%2f..%2f..%2fapi/v1/secrets",
        "/apis/cacheserver.dev/v1alpha1x/packages",
        "/metrics",
        "//api/v1/secrets",
        "/version",
    ):
        assert opened.ask(path)[0] == 404, path
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        status, _, said = opened.ask(REVISION, method, b"{}", **opened.own)
        assert (status, b"--write" in said) == (403, True)
    assert opened.ask(REVISION, "PUT", b"x", Transfer_Encoding="chunked", **opened.own)[0] in (400, 403, 413)
    # A search is created, and changes nothing.
    search = b'{"apiVersion":"cacheserver.dev/v1alpha1","kind":"PackageSearch","spec":{}}'
    for place in ("", "namespaces/default/"):
        path = f"/apis/cacheserver.dev/v1alpha1/{place}packagesearches"
        assert opened.ask(path, "POST", search, Content_Type="application/json", **opened.own)[0] == 201
        assert opened.ask(path, "POST", search, Content_Type="application/json")[0] == 403
        assert opened.ask(f"{path}/x", "POST", search, Content_Type="application/json", **opened.own)[0] == 403
    # What the page says of who it is goes no further.
    status, _, _ = opened.ask(PACKAGES, Authorization="Bearer other", Impersonate_User="admin")
    assert status == 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as another user")
def test_another_user_of_the_machine_has_no_answer_whatever_he_knows(opened: Opened) -> None:
    ask = (
        "import encodings.idna, http.client, os, sys\n"  # of a Python that others may not read
        "os.setuid(65534)\n"
        "connection = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=20)\n"
        "connection.request('GET', sys.argv[2])\n"
        "print(connection.getresponse().status)"
    )
    command = [sys.executable, "-I", "-c", ask, str(opened.port), f"/begin?secret={opened.secret}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "RemoteDisconnected" in done.stderr or "ConnectionReset" in done.stderr
    opened.begin()


@pytest.mark.parametrize("opened", ["kubectl"], indirect=True)
def test_it_goes_on_however_often_the_server_is_away(opened: Opened, server: ServerProcess) -> None:
    """kubectl's proxy complains of each request: once its pipe was full, none of them had an answer any more."""
    opened.begin()
    server.stop()
    connection = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=30)
    for _ in range(600):
        connection.request("GET", PACKAGES, headers={"Cookie": opened.cookie})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 500, "kubectl's"
    connection.close()
    server.start()
    assert opened.ask(PACKAGES)[0] == 200
