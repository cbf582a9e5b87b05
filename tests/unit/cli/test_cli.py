"""The command line as a user meets it: exit codes, where output goes, what messages say.

The server behind it is a fake that keeps what it was asked; real ones are started in tests/e2e.
"""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cacheserver.catalogs import Catalog, Finding
from cacheserver.cli import logs, main
from cacheserver.cli.terminal import Progress, Terminal, banner, finding_line, table, validate_summary
from cacheserver.config import LogFormat, LogSettings, RepositoryConfig, Settings
from cacheserver.errors import CacheServerError, EtcdStartError, SourceNotFoundError
from cacheserver.headstart import HeadStart
from cacheserver.ingest import Outcome, SyncReport
from cacheserver.model import RepositoryKey
from cacheserver.server.begun import Begun

pytestmark = pytest.mark.processes

URL = "http://127.0.0.1:8001"


@dataclass
class FakeEngine:
    """A server that serves nothing. fails: what both commands raise. reports: what ingest tells."""

    fails: BaseException | None = None
    reports: list[SyncReport | CacheServerError] = field(default_factory=list)
    asked: list[Settings] = field(default_factory=list)

    async def serve(self, settings: Settings, *, ready: Callable[[Begun], None], progress: Progress) -> int:
        self.asked.append(settings)
        progress("example: read", 1, 2)
        if self.fails is not None:
            raise self.fails
        ready(Begun(URL, repositories=len(settings.repositories), packages=5, revisions=15))
        progress("example: read", 2, 2)
        return 0

    async def ingest(
        self,
        settings: Settings,
        *,
        progress: Progress,
        on_report: Callable[[SyncReport], None],
        on_error: Callable[[RepositoryConfig, CacheServerError], None],
        begun: HeadStart | None,
    ) -> None:
        self.asked.append(settings)
        progress("read", 1, 2)
        if self.fails is not None:
            raise self.fails
        for repository, report in zip(settings.repositories, self.reports, strict=True):
            if isinstance(report, SyncReport):
                on_report(report)
            else:
                on_error(repository, report)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """main() configures the whole process's logging, on a stderr that is this test's own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def run(*arguments: str, engine: FakeEngine | None = None, **environ: str) -> int:
    return main.main(arguments, environ=environ, engine=engine or FakeEngine())


# --- help and usage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "ingest", "validate", "version"])
def test_help_teaches_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(command, "--help")
    assert left.value.code == 0
    assert f"  cacheserver {command} " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("serve", "--nonsense"), ("serve", "--inter", "1m")])
def test_a_command_line_that_is_wrong_exits_2(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--catalogs", "a=."), "serve has no flag --catalogs; did you mean --catalog?"),
        (("serve", "--catalogs=a=."), "serve has no flag --catalogs; did you mean --catalog?"),
        (("ingest", "--no-allow-emptyy"), "ingest has no flag --no-allow-emptyy; did you mean --no-allow-empty?"),
        (("validate", "x", "--zzz"), "validate has no flag --zzz; `cacheserver validate --help` lists all"),
        (("validate", "x", "y"), "validate takes no argument 'y'; `cacheserver validate --help` shows what it takes"),
        (("server",), "there is no command 'server'; did you mean serve?"),
        (("xyzzy",), "there is no command 'xyzzy'; there are serve, ingest, validate, certs, doctor, version"),
    ],
)
def test_a_mistyped_word_is_told_with_the_likely_one(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"cacheserver: error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve",), "there is no catalog to read: give --catalog NAME=SOURCE"),
        (("ingest", "--etcd", "http://127.0.0.1:1"), "there is no catalog to read"),
        (("serve", "--catalog", "a=.", "--interval", "1s"), "--interval: '1s' is out of range"),
        (("serve", "--catalog", "a=.", "--listen", "0.0.0.0:8001"), "needs TLS and authentication"),
        (("validate", "nowhere"), "nowhere: there is no such file or directory"),
        (("serve", "--catalog", "a=/no/such"), "--catalog a=/no/such: /no/such: there is no such file or directory"),
        (("ingest", "--catalog", "a=/no/such"), "--catalog a=/no/such: /no/such: there is no such file or directory"),
        (("serve", "--catalog", "a=oci-layout:/no/such"), "/no/such: there is no such file or directory"),
        (("serve", "--catalog", "a=git+file:///no/such%20one#x"), "/no/such one: there is no such file or directory"),
        (("serve", "--catalog", "a=/etc/passwd"), "/etc/passwd: is a file; name the directory that holds it"),
    ],
)
def test_a_setting_that_cannot_be_used_exits_2_with_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    assert run(*arguments, engine=engine) == 2
    err = capsys.readouterr().err
    assert err.startswith("cacheserver: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not engine.asked


def loaded(code: str, *of: str) -> Sequence[str]:
    """Which of these modules a process has loaded once it has run `code`."""
    asked = f"import sys\n{code}\nprint(*(m for m in {of} if m in sys.modules), file=sys.stderr)"
    return subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True
    ).stderr.split()


def test_help_and_version_load_neither_the_server_nor_protobuf() -> None:
    code = "from cacheserver.cli import main\ntry: main.main(['serve', '--help'])\nexcept SystemExit: pass"
    assert loaded(code, "google.protobuf", "aiohttp", "cacheserver.server.serve") == []


def test_an_ingest_of_a_directory_loads_no_other_source_and_nothing_that_serves() -> None:
    code = (
        "from pathlib import Path; from cacheserver import config; from cacheserver.server import serve\n"
        "settings = config.load({'--catalog': ['a=.'], '--etcd': 'http://127.0.0.1:1'}, {}, cwd=Path.cwd())\n"
        "serve._source(settings, settings.repositories[0])"
    )
    absent = (
        *("yaml", "aiohttp", "cacheserver.api", "cacheserver.cache.watchcache", "cacheserver.etcd.embedded"),
        *("cacheserver.sources.git.source", "cacheserver.sources.oci.registry", "cacheserver.catalogs.krm.git"),
        *("cacheserver.publish.git", "cacheserver.sources.git.command"),
    )
    assert loaded(code, *absent) == []


def test_a_server_loads_what_its_settings_ask_for_and_no_more() -> None:
    """Each of these is memory that an empty server would hold: git's side of publishing alone 2.3 MB."""
    code = (
        "import asyncio, os, signal, uvloop; from pathlib import Path\n"
        "from cacheserver import config; from cacheserver.server import serve\n"
        "given = {'--etcd': 'http://127.0.0.1:1', '--listen': '127.0.0.1:0', '--catalog': ['a=.']}\n"
        "settings = config.load(given, {}, cwd=Path.cwd())\n"
        "async def main():\n"
        "    serving = asyncio.create_task(serve.serve(settings, ready=print, progress=print))\n"
        "    while not any(task.get_name() == 'server: work' for task in asyncio.all_tasks()):\n"
        "        await asyncio.sleep(0)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await serving\n"
        "uvloop.run(main())"
    )
    absent = (
        *("prometheus_client", "grpc", "kubernetes_asyncio", "cryptography", "cacheserver.cluster"),
        *("cacheserver.publish.git.publisher", "cacheserver.ingest.publishing", "cacheserver.sources.git.command"),
        *("cacheserver.sources.oci.registry", "cacheserver.compat.registry", "cacheserver.compat.catalogd"),
        *("cacheserver.etcd.embedded", "cacheserver.security.certs"),
    )
    assert loaded(code, *absent) == []


def test_a_file_based_catalog_is_asked_of_workers_without_what_they_know_of_it() -> None:
    code = "import cacheserver.cli.validate, cacheserver.catalogs.fbc.parse, cacheserver.catalogs.krm.packages"
    theirs = ("cacheserver.catalogs.fbc.facts", "cacheserver.catalogs.krm.facts", "cacheserver.catalogs.krm.index")
    assert loaded(code, "yaml", *theirs) == []


def test_a_parse_worker_loads_no_event_loop_and_nothing_of_the_network() -> None:
    code = "import cacheserver.catalogs.worker, cacheserver.catalogs.fbc.worker, cacheserver.catalogs.krm.worker"
    assert loaded(code, "asyncio", "ssl", "aiohttp", "google.protobuf") == []


def test_validate_of_a_directory_loads_no_ingestion_and_no_protobuf() -> None:
    absent = ("google.protobuf", "aiohttp", "cacheserver.etcd", "cacheserver.ingest")
    assert loaded("from cacheserver.cli import validate", *absent) == []


def test_a_child_that_imports_the_main_module_loads_nothing_of_the_server() -> None:
    code = "import sys, cacheserver.__main__; print([m for m in sys.modules if m.startswith('cacheserver.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "['cacheserver.__main__']"


# --- serve ---------------------------------------------------------------------------------------------------------


def test_serve_hands_the_settings_to_the_server_and_prints_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    assert run("serve", "--catalog", "example=.", "--log-format", "text", engine=engine) == 0
    assert [r.key.name for r in engine.asked[0].repositories] == ["example"]
    out = capsys.readouterr().out
    assert f"Serving 5 packages, 15 revisions of 1 repository on {URL}\n" in out
    assert f"kubectl --server {URL} get packages" in out
    assert f"curl {URL}/apis/cacheserver.dev/v1alpha1/packages" in out


def test_a_server_whose_disk_is_away_starts_where_no_flag_names_it() -> None:
    assert run("serve", CACHESERVER_CATALOGS="a=/no/such") == 0


@pytest.mark.parametrize("name", ["layout", "layout.tar", "layout:v1", "layout.tar:v1"])
def test_an_image_layout_is_a_directory_or_an_archive_and_may_name_an_image(name: str, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout.tar").touch()
    assert run("serve", "--catalog", f"a=oci-layout:{tmp_path / name}") == 0
    assert run("serve", "--catalog", f"a=oci-layout:{tmp_path / 'no' / name}") == 2


def test_the_banner_says_what_could_not_be_read_and_what_is_still_being_read() -> None:
    begun = Begun(URL, 4, 1, 1, failed={"b": "nobody\x1b[2J home", "a": "x" * 400}, reading=["slow", "slower"])
    said = banner(begun).splitlines()
    assert said[0] == f"Serving 1 package, 1 revision of 4 repositories on {URL}"
    assert said[1] == f"  a could not be read: {'x' * 300}..."
    assert said[2] == "  b could not be read: nobody\\x1b[2J home"
    assert said[3] == "  still being read: slow, slower"
    assert banner(Begun(URL)).startswith(f"Serving what etcd holds on {URL}\n")


def test_serve_prints_nothing_among_json_logs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--catalog", "example=.") == 0
    assert capsys.readouterr().out == ""


def test_a_server_on_a_shared_etcd_may_serve_what_others_ingest() -> None:
    assert run("serve", "--etcd", "http://127.0.0.1:2379") == 0


def test_a_variable_that_is_no_setting_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    run("serve", "--catalog", "example=.", CACHESERVER_INTERVALL="1m")
    told = json.loads(capsys.readouterr().err)
    assert (told["variable"], told["did_you_mean"]) == ("CACHESERVER_INTERVALL", "CACHESERVER_INTERVAL")


# --- errors --------------------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_one_line_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("server", [EtcdStartError("no etcd found; install one")])
    assert run("serve", "--catalog", "a=.", engine=FakeEngine(group)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "cacheserver: error: no etcd found; install one",
        "The same command with --log-level debug says more.",
    ]


def test_an_address_that_is_taken_is_told_with_the_flag_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    taken = OSError(98, "address already in use")
    assert run("serve", "--catalog", "a=.", engine=FakeEngine(taken)) == 1
    assert "--listen" in capsys.readouterr().err


def test_a_defect_shows_its_traceback_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--catalog", "a=.", engine=FakeEngine(TypeError("x"))) == 1
    quiet = capsys.readouterr().err
    assert "TypeError: x. This is a defect" in quiet
    assert "Traceback" not in quiet
    run("serve", "--catalog", "a=.", "--log-level", "debug", engine=FakeEngine(TypeError("x")))
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_as_a_shell_expects() -> None:
    assert run("serve", "--catalog", "a=.", engine=FakeEngine(KeyboardInterrupt())) == 130


# --- ingest --------------------------------------------------------------------------------------------------------


def report(name: str = "a", **fields: object) -> SyncReport:
    made = SyncReport(RepositoryKey("default", name), outcome=Outcome.APPLIED, elapsed_s=1.234)
    for field_name, value in fields.items():
        setattr(made, field_name, value)
    return made


def test_ingest_prints_what_changed_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    done = report(added=3, changed=2, deleted=1, unchanged=40, packages=5, revisions=39)
    assert run("ingest", "--catalog", "a=.", engine=FakeEngine(reports=[done])) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("REPOSITORY", "ADDED", "CHANGED", "DELETED", "UNCHANGED"),
        *("REJECTED", "PACKAGES", "REVISIONS", "TIME", "RESULT"),
    ]
    assert row.split() == ["a", "3", "2", "1", "40", "0", "5", "39", "1.23s", "applied"]


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--fail-on-rejected",), 1)])
def test_ingest_lists_rejected_packages_and_fails_where_that_is_asked(
    flags: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("DuplicateBundle", "x.v1 stands here twice", path="c.yaml", document=3, line=12, package="x")
    done = report(rejected={"x": [finding]}, findings=[finding], packages=1)
    assert run("ingest", "--catalog", "a=.", *flags, engine=FakeEngine(reports=[done])) == code
    captured = capsys.readouterr()
    assert "a: c.yaml:12: error: x.v1 stands here twice [DuplicateBundle, package x, document 3]" in captured.out
    assert ("a: 1 package is rejected" in captured.err) == bool(code)


def test_an_ingest_that_changed_nothing_still_knows_of_rejected_packages(capsys: pytest.CaptureFixture[str]) -> None:
    again = report(outcome=Outcome.UNCHANGED, packages=4, rejected_before=2)
    assert run("ingest", "--catalog", "a=.", "--fail-on-rejected", engine=FakeEngine(reports=[again])) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split()[5] == "2"
    assert "a: 2 packages are rejected" in captured.err


def test_an_ingest_that_finds_nothing_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ingest", "--catalog", "a=.", engine=FakeEngine(reports=[report()])) == 1
    assert "a: no package was found" in capsys.readouterr().err
    assert run("ingest", "--catalog", "a=.", "--allow-empty", engine=FakeEngine(reports=[report()])) == 0


def test_ingest_goes_on_after_a_repository_that_failed_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(reports=[SourceNotFoundError("./x: no such directory"), report("b", added=1)])
    assert run("ingest", "--catalog", "a=.", "--catalog", "b=.", engine=engine) == 1
    captured = capsys.readouterr()
    assert "cacheserver: error: a: ./x: no such directory" in captured.err
    assert captured.out.splitlines()[1].startswith("b ")


def test_a_catalog_that_is_refused_as_a_whole_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    held = report(outcome=Outcome.HELD, reason="CatalogEmpty", message="the source holds no package any more")
    assert run("ingest", "--catalog", "a=.", engine=FakeEngine(reports=[held])) == 1
    assert "a: the source holds no package any more [CatalogEmpty]" in capsys.readouterr().err


# --- validate and version, for real --------------------------------------------------------------------------------

GOOD = """\
schema: olm.package
name: foo
defaultChannel: stable
---
schema: olm.channel
package: foo
name: stable
entries: [{name: foo.v1.0.0}]
---
schema: olm.bundle
package: foo
name: foo.v1.0.0
image: registry.example/foo:v1
properties:
- {type: olm.package, value: {packageName: foo, version: 1.0.0}}
"""


@pytest.fixture
def catalog_directory(tmp_path: Path) -> Path:
    """One good package in good.yaml; a package whose channel names no bundle in bad/bad.yaml."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad" / "bad.yaml").write_text(GOOD.replace("foo", "bar").partition("---\nschema: olm.bundle")[0])
    return tmp_path


def test_validate_of_a_good_file_exits_0(catalog_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", str(catalog_directory / "good.yaml"), "--workers", "1") == 0
    assert capsys.readouterr().out.startswith("1 file, 1 good package with 1 revision, 0 rejected, 0 warnings, ")


def test_validate_tells_the_place_of_what_is_rejected_and_exits_1(
    catalog_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("validate", str(catalog_directory), "--workers", "1") == 1
    captured = capsys.readouterr()
    finding, summary, rejected = captured.out.splitlines()
    assert finding.startswith(f"{catalog_directory}/bad/bad.yaml:5: error: ")
    assert "package bar" in finding
    assert summary.startswith("2 files, 1 good package with 1 revision, 1 rejected")
    assert rejected == "rejected: bar"
    assert captured.err == ""  # no progress: this is not a terminal


def test_validate_of_a_checkout_leaves_out_hidden_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    library = tmp_path / ".venv" / "lib"
    library.mkdir(parents=True)
    (library / "broken.yaml").write_text("a: [")
    (library / ".indexignore").write_text("x\n" * 2_000)  # more than is taken
    (library / "python").symlink_to("/usr/bin/env")
    assert run("validate", str(tmp_path), "--workers", "1") == 0
    [summary] = capsys.readouterr().out.splitlines()
    assert "1 good package with 1 revision, 0 rejected, 0 warnings, " in summary


def test_validate_prints_some_of_many_findings_errors_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(12):
        (tmp_path / f"b{number:02}.yaml").write_text("a: [")
    assert run("validate", str(tmp_path), "--workers", "1", "--max-findings", "5") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2].partition(":")[0] for line in lines[:5]] == [f"b{n:02}.yaml" for n in range(5)]
    assert lines[5] == "and 7 more; --max-findings 12 shows all"
    assert lines[6].startswith("12 files, ")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "there is no document of schema olm.package; there is no file"),
        ({"README.md": "# Hello"}, "there is no document of schema olm.package; there is 1 file"),
        ({"chart/templates/a.yaml": "kind: Service"}, "there is 1 file, in: chart/"),
        ({".catalog/good.yaml": GOOD}, "hidden folders are left out"),
    ],
)
def test_validate_of_what_holds_no_package_exits_1_and_says_what_was_looked_for(
    files: Mapping[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert run("validate", str(tmp_path), "--workers", "1") == 1
    captured = capsys.readouterr()
    assert f"cacheserver: error: {tmp_path}: no package was found: " in captured.err
    assert said in captured.err


def test_validate_refuses_a_source_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", "s3://bucket") == 2
    assert "s3:// is not supported" in capsys.readouterr().err


def test_version_names_the_etcd_that_would_be_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "etcd"
    binary.write_text("#!/bin/sh\necho etcd Version: 3.5.30\n")
    binary.chmod(0o755)
    assert run("version", "--etcd-binary", str(binary)) == 0
    assert f"etcd        3.5.30 ({binary}, as configured)" in capsys.readouterr().out
    assert run("version", "--etcd-binary", str(tmp_path / "nowhere")) == 0
    assert "etcd        none: " in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error_worth_a_traceback(catalog_directory: Path) -> None:
    command = [sys.executable, "-m", "cacheserver", "validate", str(catalog_directory), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


# --- what is printed -----------------------------------------------------------------------------------------------


def catalog(**fields: object) -> Catalog:
    given = {"packages": (), "unchanged": (), "rejected": {}, "findings": (), "index": b""}
    return Catalog(**{**given, **fields})  # type: ignore[arg-type]  # a builder: fields are named by the tests


def test_a_finding_is_printed_as_editors_read_it_and_cannot_move_the_cursor() -> None:
    terminal = Terminal(out=io.StringIO(), err=io.StringIO())
    finding = Finding("YAMLSyntax", "bad \x1b[2J\nvalue", path="a\x07.yaml", line=7)
    assert finding_line(finding, terminal, prefix="dir/") == (
        "dir/a\\x07.yaml:7: error: bad \\x1b[2J\\nvalue [YAMLSyntax]"
    )


def test_a_finding_about_no_file_names_the_catalog() -> None:
    terminal = Terminal(out=io.StringIO(), err=io.StringIO())
    assert finding_line(Finding("Empty", "nothing here", warning=True), terminal, prefix="dir/").startswith(
        "dir: warning"
    )


def test_the_summary_names_what_is_rejected_and_what_may_be_missing() -> None:
    bad = {f"p{n:02}": [Finding("X", "x")] for n in range(12)}
    summary = validate_summary(catalog(rejected=bad, cause=bad["p00"][0], revisions=1), files=1, elapsed_s=0.5)
    first, rejected, missing = summary.splitlines()
    assert first == "1 file, 0 good packages with 1 revision, 12 rejected, 0 warnings, 0.50 s"
    assert rejected == "rejected: p00, p01, p02, p03, p04, p05, p06, p07, p08, p09 and 2 more"
    assert "packages may be missing" in missing


class Screen(io.StringIO):
    """A terminal that remembers what was written to it."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only_and_wiped_at_the_end() -> None:
    screen, file = Screen(), io.StringIO()
    for stream in (screen, file):
        with Terminal(out=io.StringIO(), err=stream).progress() as progress:
            progress("read", 1, 2)
            progress("read", 2, 2)  # sooner than a tenth of a second later: not shown
            progress("write", 1, 4)  # another step: shown at once
    assert screen.getvalue() == "\r\x1b[Kread  50 %\r\x1b[Kwrite  25 %\r\x1b[K"
    assert file.getvalue() == ""


def test_a_log_line_does_not_end_up_behind_the_progress() -> None:
    screen = Screen()
    logs.configure(LogSettings(format=LogFormat.JSON), screen)
    with Terminal(out=io.StringIO(), err=screen).progress() as progress:
        logging.getLogger("cacheserver.test").info("before")
        progress("read", 1, 2)
        logging.getLogger("cacheserver.test").info("between")
    progress("read", 2, 2)  # too late: nobody waits any more
    before, _, rest = screen.getvalue().partition("\r\x1b[Kread  50 %\r\x1b[K")
    assert json.loads(before)["msg"] == "before"
    assert rest.endswith("\n\r\x1b[K")
    assert json.loads(rest.removesuffix("\r\x1b[K"))["msg"] == "between"


def test_colour_is_used_on_a_terminal_unless_no_color_is_set() -> None:
    assert "\x1b[31m" in Terminal(out=Screen()).painted("error", warning=False)
    assert Terminal(out=Screen(), colour=False).painted("error", warning=False) == "error"
    assert Terminal(out=io.StringIO()).painted("error", warning=False) == "error"


def test_columns_line_up_and_nothing_is_cut() -> None:
    assert table([("A", "B"), ("long", "x")]) == "A      B\nlong   x"


# --- logs ----------------------------------------------------------------------------------------------------------


def logged(form: LogFormat, stream: io.StringIO, *, colour: bool = False) -> str:
    logs.configure(LogSettings(format=form), stream, colour=colour)
    try:
        raise ValueError("inner")
    except ValueError:
        extra = {"repository": "a", "elapsed_s": 3.1, "path": Path("x"), "text": "two\nlines", "odd": "\ud800"}
        logging.getLogger("cacheserver.test").warning("sync failed", exc_info=True, extra=extra)
    return stream.getvalue()


def test_a_json_record_is_one_line_with_its_fields_apart() -> None:
    [line] = logged(LogFormat.AUTO, io.StringIO()).splitlines()
    record = json.loads(line)
    assert record["msg"] == "sync failed"
    assert record["level"] == "warning"
    assert record["logger"] == "cacheserver.test"
    assert record["repository"] == "a"
    assert record["path"] == "x"
    assert record["text"] == "two\nlines"
    assert record["ts"].endswith("Z")
    assert "ValueError: inner" in record["trace"]


def test_a_text_record_is_one_line_and_its_traceback_below() -> None:
    first, *trace = logged(LogFormat.AUTO, Screen()).splitlines()
    assert first[9:].startswith("WARNING sync failed  repository=a elapsed_s=3.1 path=x ")
    assert 'text="two\\nlines"' not in first  # quotes only where a blank needs them
    assert "text=two\\nlines" in first
    assert trace[-1] == "ValueError: inner"


def test_logging_to_a_terminal_uses_colour_only_when_allowed() -> None:
    assert "\x1b[33m" in logged(LogFormat.TEXT, Screen(), colour=True)
    assert "\x1b[33m" not in logged(LogFormat.TEXT, Screen())
    assert "\x1b[33m" not in logged(LogFormat.TEXT, io.StringIO(), colour=True)


def test_a_client_that_goes_in_the_middle_of_its_answer_fills_no_log() -> None:
    stream = io.StringIO()
    logs.configure(LogSettings(format=LogFormat.JSON), stream)
    for message in ("SSL connection is closed", "socket.send() raised exception.", "Task was destroyed"):
        logging.getLogger("asyncio").warning(message)
    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["msg"] == "Task was destroyed"
