"""The main path whole: a catalog on disk, a server process with its own etcd, and what clients of it see."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from cacheserver.etcd.version import Version
from tests.e2e.conftest import StartServer
from tests.support.asking import RefusedError
from tests.support.etcd import FoundEtcd
from tests.support.fbc import catalog
from tests.support.server import Recorder, ServerProcess, run_cli
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

REPOSITORIES = "/apis/config.cacheserver.dev/v1alpha1/namespaces/default/repositories"


def served(server: ServerProcess, *names: str) -> bool:
    return list(server.names()) == sorted(names)


def conditions(server: ServerProcess, name: str = "c") -> dict[str, tuple[str, str]]:
    """Condition -> (status, reason); ("", "") while the repository has none."""
    found: defaultdict[str, tuple[str, str]] = defaultdict(lambda: ("", ""))
    for item in server.get(REPOSITORIES)["items"]:
        if item["metadata"]["name"] == name:
            found.update({c["type"]: (c["status"], c["reason"]) for c in item["status"]["conditions"]})
    return found


async def test_a_changed_catalog_gives_exactly_the_events_of_what_changed(
    start_server: StartServer, tmp_path: Path
) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0").package("db", "2.0.0")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: served(server, "c.app", "c.db"))
    await eventually(lambda: conditions(server)["Ready"] == ("True", "Synced"))
    since = server.list("packages")["metadata"]["resourceVersion"]
    async with (
        Recorder(server, "packages", since) as packages,
        Recorder(server, "packagerevisions", since) as revisions,
    ):
        files.package("app", "1.0.0", "1.1.0", descriptions={"1.0.0": "now different"})
        server.signal(signal.SIGHUP)
        await eventually(lambda: revisions.events == [("MODIFIED", "c.app.1.0.0")])
        assert {name for _, name in packages.events} <= {"c.app"}
        files.without("db")
        server.signal(signal.SIGHUP)
        await eventually(lambda: revisions.events[1:] == [("DELETED", "c.db.2.0.0")])
        await eventually(lambda: packages.events[-1:] == [("DELETED", "c.db")])
        last = packages.objects[-1]
    assert last["spec"]["packageName"] == "db"
    assert last["status"]["latest"]["version"] == "2.0.0"


async def test_a_short_interval_notices_a_change_by_itself(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}", "--interval", "10s")
    await eventually(lambda: served(server, "c.app"))
    files.package("db", "1.0.0")
    await eventually(lambda: served(server, "c.app", "c.db"), within_s=20)


async def test_a_broken_package_is_named_in_status_and_the_rest_is_served(
    start_server: StartServer, tmp_path: Path
) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0").package("bad", "not-a-version")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: served(server, "c.app"))
    await eventually(lambda: conditions(server)["Degraded"] == ("True", "PackagesRejected"))
    status = server.get(f"{REPOSITORIES}/c")["status"]
    assert conditions(server)["Ready"] == ("True", "Synced")
    assert [rejected["package"] for rejected in status["rejected"]] == ["bad"]
    assert status["rejectedCount"] == 1
    assert (status["packages"], status["revisions"]) == (1, 1)
    files.package("bad", "1.0.0")
    server.signal(signal.SIGHUP)
    await eventually(lambda: served(server, "c.app", "c.bad"))
    await eventually(lambda: conditions(server)["Degraded"] == ("False", "AllAccepted"))


async def test_a_missing_source_is_said_and_heals(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    files.root.rename(tmp_path / "later")
    server = start_server(environ={"CACHESERVER_CATALOGS": f"c={tmp_path / 'c'}"})
    await eventually(lambda: conditions(server)["Ready"] == ("False", "SourceNotFound"))
    (tmp_path / "later").rename(tmp_path / "c")
    server.signal(signal.SIGHUP)
    await eventually(lambda: conditions(server)["Ready"] == ("True", "Synced"))
    (tmp_path / "c").rename(tmp_path / "away")
    server.signal(signal.SIGHUP)
    await eventually(lambda: conditions(server)["Ready"] == ("False", "SourceNotFound"))
    assert list(server.names()) == ["c.app"]


async def test_the_first_words_come_when_there_is_something_to_see(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0")
    manifest = {
        "apiVersion": "config.cacheserver.dev/v1alpha1",
        "kind": "Repository",
        "metadata": {"name": "away"},
        "spec": {"source": {"directory": {"path": str(tmp_path / "away")}}},
    }
    (tmp_path / "away.json").write_text(json.dumps(manifest))
    flags = ("--catalog", f"c={files.root}", "--repositories", str(tmp_path / "away.json"), "--log-format", "text")
    server = start_server(*flags)
    await eventually(lambda: "Ctrl-C stops it." in server.log(), within_s=30)
    assert f"Serving 1 package, 2 revisions of 2 repositories on {server.url}\n" in server.log()
    assert f"  away could not be read: {tmp_path / 'away'} does not exist; check the path" in server.log()
    before_that, _, _ = server.log().partition("Serving ")
    assert "repository read  namespace=default repository=c" in before_that
    assert list(server.names()) == ["c.app"]


async def test_hostile_files_are_named_the_process_lives_and_the_rest_is_served(
    start_server: StartServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("schema: olm.package\nname: stolen\n")
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 107)
    )
    files = (
        catalog(tmp_path / "c")
        .package("app", "1.0.0")
        .file("brackets/catalog.yaml", b"schema: x\nv: " + b"[" * 40_000)
        .file("bomb/catalog.yaml", b"schema: x\n" + bomb)
        .file("noise/catalog.yaml", bytes(range(256)) * 64)
        .file("truncated/catalog.yaml", b'schema: olm.package\nname: "tr')
        .file("list/catalog.yaml", b"- a\n- b\n")
        .file("tab/catalog.yaml", b"schema: x\nv:\n\t- 1\n")
    )
    with (files.root / "huge.yaml").open("wb") as huge:
        huge.write(b"schema: x\nv: ")
        for _ in range(200):
            huge.write(b"y" * (1 << 20))
    (files.root / "link.yaml").symlink_to(secret)
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: served(server, "c.app"), within_s=30)
    await eventually(lambda: conditions(server)["Degraded"][1] == "UnreadableFile")
    report = run_cli("validate", str(files.root), cwd=tmp_path)
    assert report.returncode == 1
    for name in ("brackets", "bomb", "noise", "truncated", "list", "tab", "huge.yaml", "link.yaml"):
        assert name in report.stdout, report.stdout
    assert "stolen" not in json.dumps(server.list("packages"))


async def test_kill_9_in_the_middle_of_an_ingest_ends_in_the_state_of_an_undisturbed_one(
    start_server: StartServer, tmp_path: Path
) -> None:
    files = catalog(tmp_path / "c")
    for i in range(30):
        files.package(f"p{i:02}", *(f"1.{v}.0" for v in range(20)))
    undisturbed = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: conditions(undisturbed)["Ready"] == ("True", "Synced"), within_s=30)
    expected = _contents(undisturbed)
    server = start_server("--catalog", f"c={files.root}", wait=False)
    for enough in (1, 150, 400):
        server.start()
        await eventually(lambda enough=enough: len(server.names("packagerevisions")) >= enough)  # type: ignore[misc]
        server.kill()
    server.start()
    _assert_consistent(server)
    await eventually(lambda: conditions(server)["Ready"] == ("True", "Synced"), within_s=30)
    assert _contents(server) == expected


def _contents(server: ServerProcess) -> dict[str, object]:
    """Everything served, less what says when and in which order."""
    return {
        item["metadata"]["name"]: (item["spec"], item["status"], item["metadata"]["labels"], item["metadata"]["uid"])
        for resource in ("packages", "packagerevisions")
        for item in server.list(resource)["items"]
    }


def _assert_consistent(server: ServerProcess) -> None:
    """No package names a revision that is absent. Revisions are read after packages: they only grow here."""
    packages = server.list("packages")["items"]
    revisions = {item["spec"]["revision"] for item in server.list("packagerevisions")["items"]}
    for package in packages:
        assert package["status"]["latest"]["revision"] in revisions
        assert {channel["head"] for channel in package["status"]["channels"]} <= revisions


async def test_every_read_during_an_ingest_is_consistent(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c")
    for i in range(20):
        files.package(f"p{i:02}", *(f"1.{v}.0" for v in range(20)))
    server = start_server("--catalog", f"c={files.root}")
    while len(server.names()) < 20:
        _assert_consistent(server)


async def test_a_restart_keeps_identity_birth_and_resource_versions(start_server: StartServer, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0")
    server = start_server("--catalog", f"c={files.root}")
    await eventually(lambda: served(server, "c.app"))
    before = server.list("packages")["items"][0]["metadata"]
    server.kill()
    server.start()
    await eventually(lambda: served(server, "c.app"))
    assert server.list("packages")["items"][0]["metadata"] == before


async def test_ingest_says_what_changed_and_a_second_run_changes_nothing(
    start_server: StartServer, tmp_path: Path
) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0", "1.1.0")
    server = start_server("--catalog", f"other={catalog(tmp_path / 'o').package('x', '1.0.0').root}")
    await eventually(lambda: served(server, "other.x"))
    server.stop()  # its data directory is what ingest writes into
    flags = ["ingest", "--catalog", f"c={files.root}", *server.arguments[2:]]
    first, second = (run_cli(*flags, cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert "3" in first.stdout.split("\n")[1]
    server.start()
    await eventually(lambda: served(server, "c.app", "other.x"))


def test_a_pipeline_hears_of_rejected_packages_in_every_run(etcd_binary: FoundEtcd, tmp_path: Path) -> None:
    files = catalog(tmp_path / "c").package("app", "1.0.0").package("bad", "not-a-version")
    own = ("--data-dir", str(tmp_path / "data"), "--etcd-binary", str(etcd_binary.path))
    command = ("ingest", "--catalog", f"c={files.root}", *own)
    runs = [run_cli(*command, *more, cwd=tmp_path) for more in ((), ("--fail-on-rejected",), ("--fail-on-rejected",))]
    assert [done.returncode for done in runs] == [0, 1, 1]
    assert [done.stdout.splitlines()[1].split()[-1] for done in runs] == ["applied", "unchanged", "unchanged"]
    assert {done.stdout.splitlines()[1].split()[5] for done in runs} == {"1"}
    assert "c: 1 package is rejected, and --fail-on-rejected is given" in runs[2].stderr


async def test_a_catalog_taken_out_of_the_configuration_goes_and_what_others_ingested_stays(
    start_server: StartServer, tmp_path: Path
) -> None:
    roots = {name: catalog(tmp_path / name).package(name, "1.0.0").root for name in ("a", "b", "c")}
    given = ["--catalog", f"a={roots['a']}", "--catalog", f"b={roots['b']}"]
    server = start_server(*given)
    await eventually(lambda: served(server, "a.a", "b.b"))
    server.stop()
    etcd = [argument for argument in server.arguments if argument not in given]
    assert run_cli("ingest", "--catalog", f"c={roots['c']}", *etcd, cwd=tmp_path).returncode == 0
    server.arguments = ("--catalog", f"a={roots['a']}", *etcd)
    await asyncio.to_thread(server.start)
    await eventually(lambda: served(server, "a.a", "c.c"))
    await eventually(lambda: _repositories(server) == ["a", "c"])


def _repositories(server: ServerProcess) -> list[str]:
    listed = server.get("/apis/config.cacheserver.dev/v1alpha1/repositories")
    return [item["metadata"]["name"] for item in listed["items"]]


def test_an_address_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    refused = run_cli("serve", "--catalog", f"c={tmp_path}", "--listen", "0.0.0.0:0", cwd=tmp_path)
    assert refused.returncode == 2
    assert "authentication" in refused.stderr


async def test_sigterm_ends_watches_cleanly_and_exits_0(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--catalog", f"c={catalog(tmp_path / 'c').package('app', '1.0.0').root}")
    await eventually(lambda: served(server, "c.app"))
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/apis/cacheserver.dev/v1alpha1/packages?watch=1") as response,
    ):
        assert b"ADDED" in await response.content.readline()
        server.signal(signal.SIGTERM)
        assert await response.content.read() == b""  # the last chunk, not a broken connection
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_unknown_objects_are_a_status(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--catalog", f"c={catalog(tmp_path / 'c').package('app', '1.0.0').root}")
    with pytest.raises(RefusedError) as caught:
        server.list("namespaces/default/packages/none")
    assert caught.value.answer.status == 404
    assert caught.value.answer.json["reason"] == "NotFound"


def test_an_external_etcd_with_known_faults_is_refused_unless_allowed(
    start_server: StartServer, etcd_endpoint: str, etcd_binary: FoundEtcd, tmp_path: Path
) -> None:
    if etcd_binary.version >= Version(3, 5, 18):
        pytest.skip(f"etcd {etcd_binary.version} has no such faults")
    refused = run_cli("serve", "--etcd", etcd_endpoint, "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--allow-unsupported-etcd" in refused.stderr
    start_server("--etcd", etcd_endpoint, "--allow-unsupported-etcd")


async def test_an_idle_server_is_never_stale(start_server: StartServer, tmp_path: Path) -> None:
    """Whatever its etcd: old ones answer an idle watch with nothing at all."""
    server = start_server("--catalog", f"c={catalog(tmp_path / 'c').package('app', '1.0.0').root}")
    await eventually(lambda: served(server, "c.app"))
    heard, last = 0, 0.0

    def heard_again_and_again() -> bool:
        nonlocal heard, last
        said = [line for line in server.text("/metrics") if line.startswith("cacheserver_cache_lag_seconds")]
        lag = float(said[0].split()[1])
        assert lag < 3
        heard, last = heard + (lag < last), lag
        return heard >= 3

    await eventually(heard_again_and_again, within_s=30)
