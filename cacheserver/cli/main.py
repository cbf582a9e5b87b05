"""The command line: arguments to Settings, a command to the room that does it, errors to exit codes.

0 done; 1 failed, or something was rejected; 2 the command line or configuration is wrong. What is asked for goes to
stdout; progress, logs and errors go to stderr. The server is imported only by the commands that need it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import errno
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import cacheserver
from cacheserver import config
from cacheserver.cli import logs
from cacheserver.cli.terminal import (
    Progress,
    Terminal,
    banner,
    finding_line,
    ingest_table,
    table,
    validate_summary,
)
from cacheserver.config import (
    CONFIG_ENV,
    CONFIG_FLAG,
    SETTINGS,
    SUBJECTS,
    FormatChoice,
    RepositoryConfig,
    Setting,
    Settings,
    SourceSpec,
)
from cacheserver.config.quantities import SWITCH
from cacheserver.errors import CacheServerError, ConfigError, EtcdStartError
from cacheserver.model import Format, RepositoryKey

if TYPE_CHECKING:
    from cacheserver.catalogs import Catalog
    from cacheserver.ingest import SyncReport
    from cacheserver.sources import Tree

T = TypeVar("T")

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130  # a shell's 128 + SIGINT

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What the command line asks of `cacheserver.server.serve`."""

    async def serve(self, settings: Settings, ready: Callable[[str], None]) -> int:
        """Until SIGTERM or SIGINT; the exit code. Calls `ready` with the API's URL once it answers."""
        ...

    async def ingest(
        self,
        settings: Settings,
        *,
        progress: Progress,
        on_report: Callable[[SyncReport], None],
        on_error: Callable[[RepositoryConfig, CacheServerError], None],
    ) -> None:
        """Every repository once. Each ends in one call: on_report, or on_error for one that failed as a whole."""
        ...


_EXAMPLES: Final = {
    "serve": """\
examples:
  cacheserver serve --catalog example=./catalog
      serve a directory of file-based catalogs on http://127.0.0.1:8001, with an etcd of its own
  cacheserver serve --catalog community=./community --catalog mine=./mine --interval 30s --listen 127.0.0.1:9001
  cacheserver serve --repositories ./repositories --etcd https://etcd:2379 --etcd-ca-file ca.pem
  CACHESERVER_CATALOGS=example=./catalog cacheserver serve
  cacheserver serve --config cacheserver.yaml

then, from another terminal:
  kubectl --server http://127.0.0.1:8001 get packages
""",
    "ingest": """\
examples:
  cacheserver ingest --catalog example=./catalog
      read it into the embedded etcd and tell what changed; a second run changes nothing
  cacheserver ingest --repositories ./repositories --etcd http://127.0.0.1:2379
""",
    "validate": """\
examples:
  cacheserver validate ./catalog
  cacheserver validate ./catalog/operator/catalog.yaml --as FBC
  cacheserver validate oci://registry.example/team/catalog:v4.20

exit codes: 0 all packages are good (there may be warnings); 1 a package is rejected or a file unreadable; 2 usage
""",
    "certs": """\
examples:
  cacheserver certs configs/kubernetes/self-signed/certificates
      make the certificates of configs/kubernetes/self-signed; the same again renews them
  cacheserver certs - | kubectl apply --server-side -f -
      write them to stdout instead, with authorities that nobody keeps

Private keys are written: keep the directory, and keep it to yourself. With cert-manager none of this is needed.
""",
    "doctor": """\
examples:
  kubectl -n cacheserver exec deploy/cacheserver -- cacheserver doctor
      in a pod of the server, which has its settings: everything is examined
  cacheserver doctor --kubernetes ~/.kube/config
      with an administrator's kubeconfig: the cluster's side
""",
    "version": """\
examples:
  cacheserver version
  cacheserver version --etcd-binary ./etcd
""",
}

_OVERVIEW: Final = """\
examples:
  cacheserver serve --catalog example=./catalog     serve it; then: kubectl --server http://127.0.0.1:8001 get packages
  cacheserver validate ./catalog                    say what is wrong with a catalog, before anybody serves it
  cacheserver ingest --catalog example=./catalog    read it into etcd once, and say what changed
  cacheserver serve --help                          every setting

Every setting can be given as a flag, as an environment variable (CACHESERVER_...) or in a file (--config); the flag
wins over the variable, the variable over the file.

exit codes: 0 done; 1 failed, or something was rejected; 2 the command line or configuration is wrong
"""

_TITLES: Final = {
    "content": "what is served",
    "etcd": "etcd",
    "serving": "the API",
    "cache": "memory",
    "parsing": "parsing and its limits",
    "logs": "logs",
}
_COMMANDS: Final[Mapping[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "serve": (
        "--catalog NAME=SOURCE ... [FLAGS]",
        "serve catalogs as a Kubernetes API, and keep them fresh",
        "Read catalogs into etcd, look at their sources again and again, and serve them until told to stop.",
        tuple(SUBJECTS),
    ),
    "ingest": (
        "--catalog NAME=SOURCE ... [FLAGS]",
        "read catalogs into etcd once, then exit",
        "Read every catalog once, write what changed into etcd, and say what that was.",
        ("content", "etcd", "parsing", "logs"),
    ),
    "validate": (
        "PATH [FLAGS]",
        "say what is wrong with a catalog",
        "Parse a catalog as the server would and print every finding as FILE:LINE. Needs no etcd.",
        ("parsing", "logs"),
    ),
    "certs": (
        "DIRECTORY [FLAGS]",
        "make the certificates of an installation without cert-manager",
        "Make certificates for the API's Service and for etcd. Run again, it renews them and keeps their authorities.",
        ("logs",),
    ),
    "doctor": (
        "[FLAGS]",
        "say what is wrong with an installation, and what to do about it",
        "Examine APIService, certificates, rights, repositories and etcd, and change nothing. Exit code 1: one failed.",
        ("etcd", "serving", "logs"),
    ),
    "version": (
        "[--etcd-binary PATH]",
        "print the version, and which etcd would be embedded",
        "Print the versions of the program, of Python, and of the etcd that `--etcd embedded` would start.",
        ("etcd", "logs"),
    ),
}
"""Command -> (usage, one line, description, subjects whose settings are its flags)."""


def main(argv: Sequence[str], *, environ: Mapping[str, str] | None = None, engine: Engine | None = None) -> int:
    """Run one command; returns the exit code. environ: the process's own if None. engine: `cacheserver.server.serve`
    if None.

    Raises SystemExit for --help and for what argparse refuses (2).
    """
    environ = os.environ if environ is None else environ
    arguments = vars(_parser().parse_args(argv))
    terminal = Terminal(colour=not environ.get("NO_COLOR"))  # no-color.org: set and not empty
    debug = False
    try:
        flags = {name: value for name, value in arguments.items() if name.startswith("--")}
        settings = config.load(flags, environ, cwd=Path.cwd())
        debug = settings.logs.level is config.LogLevel.DEBUG
        logs.configure(settings.logs, colour=terminal.colour)
        for name in config.unknown_environment(environ):
            log.warning("environment variable is no setting and has no effect", extra={"variable": name})
        return _run(arguments, settings, terminal, engine)
    except KeyboardInterrupt:
        terminal.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`| head`). Python would complain at exit when it flushes stdout again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as exc:  # the edge of the process
        if debug:
            log.error("failed", exc_info=exc)
        return _explain(exc, terminal, debug=debug)


def _run(arguments: Mapping[str, Any], settings: Settings, terminal: Terminal, engine: Engine | None) -> int:
    match arguments["command"]:
        case "serve":
            config.check_listen(settings)
            _require_content(settings, serving=True)
            return _on_uvloop((engine or _server()).serve(settings, _announcer(settings, terminal)))
        case "ingest":
            _require_content(settings, serving=False)
            return _ingest(settings, terminal, engine or _server())
        case "validate":
            return _validate(arguments["source"], arguments["format"], settings, terminal)
        case "doctor":
            return _doctor(settings, terminal)
        case "certs":
            return _certs(arguments["directory"], arguments["service_namespace"], arguments["days"], terminal)
        case _:
            return _version(settings, terminal)


def _server() -> Engine:
    from cacheserver.server import serve  # noqa: PLC0415  validate, version and --help do without aiohttp and gRPC

    return serve


def _on_uvloop(work: Coroutine[Any, Any, T]) -> T:
    import uvloop  # noqa: PLC0415  see _server

    return uvloop.run(work)


def _announcer(settings: Settings, terminal: Terminal) -> Callable[[str], None]:
    def announce(url: str) -> None:
        # In a container stdout joins the JSON log lines: there the log's own line with the URL is enough.
        if terminal.interactive or logs.is_text(settings.logs, sys.stderr):
            terminal.out(banner(url, settings))

    return announce


def _require_content(settings: Settings, *, serving: bool) -> None:
    """A server on a shared etcd may serve what others ingest, and one in a cluster is told by that; else it is a
    mistake to have nothing to read."""
    if settings.repositories or (serving and (settings.from_cluster or not settings.etcd.embedded)):
        return
    raise ConfigError("there is no catalog to read: give --catalog NAME=SOURCE or --repositories FILE (see --help)")


def _ingest(settings: Settings, terminal: Terminal, engine: Engine) -> int:
    reports: list[SyncReport] = []
    errors: list[str] = []

    def failed(repository: RepositoryConfig, error: CacheServerError) -> None:
        errors.append(f"{repository.key.name}: {error}")

    with terminal.progress() as progress:
        _on_uvloop(engine.ingest(settings, progress=progress, on_report=reports.append, on_error=failed))
    if reports:
        terminal.out(ingest_table(reports))
    for report in reports:
        for finding in report.findings:
            terminal.out(finding_line(finding, terminal, prefix=f"{report.repository.name}: "))
        if report.message:
            errors.append(f"{report.repository.name}: {report.message} [{report.reason}]")
    for error in errors:
        terminal.error(error)
    return FAILED if errors else OK


def _validate(text: str, choice: str, settings: Settings, terminal: Terminal) -> int:
    started = time.monotonic()
    kind = None if choice == FormatChoice.AUTO else Format(choice)
    try:
        source = config.parse_source(text, Path.cwd())
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    prefix = ""
    if isinstance(source, config.DirectorySource):
        if not source.path.exists():
            raise ConfigError(f"{text}: there is no such file or directory")
        prefix = f"{Path(text) if source.path.is_dir() else Path(text).parent}/"
    with tempfile.TemporaryDirectory(prefix="cacheserver-validate-") as scratch, terminal.progress() as progress:
        tree, catalog = _on_uvloop(_parse(source, kind, settings, Path(scratch), progress))
    for finding in catalog.findings:
        terminal.out(finding_line(finding, terminal, prefix=prefix))
    elapsed_s = time.monotonic() - started
    terminal.out(validate_summary(catalog, files=len(tree.files), elapsed_s=elapsed_s))
    return FAILED if catalog.rejected or catalog.unreadable else OK


async def _parse(
    source: SourceSpec, kind: Format | None, settings: Settings, scratch: Path, progress: Progress
) -> tuple[Tree, Catalog]:
    """What a server would make of `source`; where its path is a file, of that file alone."""
    from cacheserver import catalogs, sources  # noqa: PLC0415  see _server
    from cacheserver.ingest import limits  # noqa: PLC0415  see _server

    key = RepositoryKey("default", "validate")
    async with contextlib.AsyncExitStack() as stack:
        workers = await stack.enter_async_context(limits.workers(settings.parsing))
        if isinstance(source, config.DirectorySource) and await asyncio.to_thread(source.path.is_file):
            tree = sources.Tree(root=source.path.parent, files=(source.path.name,), digest="")
        else:
            caps = limits.source_limits(settings.parsing)
            if isinstance(source, config.GitSource):
                from cacheserver.ingest.reading import open_for  # noqa: PLC0415  brings ingestion and gRPC: 50 ms

                opened = open_for(source, kind, cache=scratch / "cache", limits=caps)
            else:
                opened = sources.open_source(source, cache=scratch / "cache", limits=caps)
            await stack.enter_async_context(contextlib.aclosing(opened))
            (scratch / "tree").mkdir()
            tree = await opened.fetch(scratch / "tree", progress)
            stack.push_async_callback(tree.aclose)
        catalog = await catalogs.parse(
            tree, kind, key, workers, scratch=scratch / "parsed", progress=progress, write_blobs=False
        )
    return tree, catalog


def _doctor(settings: Settings, terminal: Terminal) -> int:
    from cacheserver.cli import doctor  # noqa: PLC0415  see _server

    findings = asyncio.run(doctor.examine(settings))
    terminal.out(table(doctor.rows(findings)))
    return doctor.exit_code(findings)


def _certs(directory: str, namespace: str, days: int, terminal: Terminal) -> int:
    from cacheserver.security import certs  # noqa: PLC0415  needs the extra `certs`

    now = datetime.datetime.now(datetime.UTC)
    if directory == "-":
        terminal.out(certs.stream(namespace=namespace, days=days, now=now))
        return OK
    for made in certs.write(Path(directory), namespace=namespace, days=days, now=now):
        terminal.out(f"{made.secret:<24} until {made.ends:%Y-%m-%d}  {', '.join(made.names)}")
    return OK


def _version(settings: Settings, terminal: Terminal) -> int:
    import platform  # noqa: PLC0415  as _server: 1.5 ms that nobody else needs

    terminal.out(f"cacheserver {cacheserver.__version__}")
    terminal.out(f"python      {platform.python_version()} ({platform.system()} {platform.machine()})")
    terminal.out(f"etcd        {_embedded_etcd(settings)}")
    return OK


def _embedded_etcd(settings: Settings) -> str:
    """What `--etcd embedded` would start."""
    from cacheserver.etcd.binary import find_binary  # noqa: PLC0415  see _server
    from cacheserver.etcd.version import check_supported  # noqa: PLC0415

    try:
        found = asyncio.run(find_binary(settings.etcd.binary))
        warning = check_supported(found.version, embedded=True)
    except EtcdStartError as exc:
        return f"none: {exc}"
    return f"{found.version} ({found.path}, {found.origin})" + (f"\n            {warning}" if warning else "")


def _explain(exc: BaseException, terminal: Terminal, *, debug: bool) -> int:
    """One line for each thing that went wrong, and what to do next; returns the exit code."""
    causes = list(_leaves(exc))
    for cause in causes:
        if isinstance(cause, CacheServerError):
            terminal.error(logs.one_line(str(cause)) or type(cause).__name__)
        elif isinstance(cause, OSError):
            hint = "; choose another one with --listen" if cause.errno == errno.EADDRINUSE else ""
            terminal.error(f"{logs.one_line(str(cause))}{hint}")
        else:
            terminal.error(f"{type(cause).__name__}: {logs.one_line(str(cause))}. This is a defect of cacheserver")
    if not debug and not all(isinstance(cause, ConfigError) for cause in causes):
        print("The same command with --log-level debug tells more.", file=sys.stderr)
    return USAGE if all(isinstance(cause, ConfigError) for cause in causes) else FAILED


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions inside a TaskGroup's group, or the one exception there is."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; the rest uses the terminal up to 110 columns."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 110)
        super().__init__(prog, max_help_position=30, width=width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cacheserver",
        description="A package cache for Kubernetes: catalogs of packages in; get, list and watch of them out.",
        epilog=_OVERVIEW,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cacheserver {cacheserver.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (usage, line, description, subjects) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            usage=f"cacheserver {name} {usage}",
            help=line,
            description=description,
            epilog=_EXAMPLES[name],
            formatter_class=_Help,
            allow_abbrev=False,
        )
        if name == "validate":
            command.add_argument(
                "source", metavar="PATH", help="a catalog's directory, one file of it, or any SOURCE of `serve`"
            )
            command.add_argument(
                "--as",
                dest="format",
                choices=list(FormatChoice),
                default=FormatChoice.AUTO,
                help="what it is (default: Auto, its content decides)",
            )
        if name == "certs":
            command.add_argument("directory", metavar="DIRECTORY", help="where to write; - is stdout")
            command.add_argument(
                "--days", type=int, default=365, metavar="N", help="how long the certificates are good (default: 365)"
            )
            command.add_argument(
                "--service-namespace",
                default="cacheserver",
                metavar="NAME",
                help="namespace of the installation; it is part of the names (default: cacheserver)",
            )
        command.add_argument(
            CONFIG_FLAG,
            dest=CONFIG_FLAG,
            default=argparse.SUPPRESS,
            metavar="FILE",
            help=f"settings from a YAML file [{CONFIG_ENV}]",
        )
        for subject in subjects:
            group = command.add_argument_group(_TITLES[subject])
            for setting in SETTINGS:
                if setting.subject is SUBJECTS[subject]:
                    _add_flag(group, setting)
    return parser


def _add_flag(group: argparse._ArgumentGroup, setting: Setting) -> None:
    """The flag of one setting. Its value stays text: `config.load` parses flags, environment and file alike."""
    default = f"default: {setting.default}; " if setting.default else ""
    text = f"{setting.help} [{default}{setting.env}]".replace("%", "%%")
    if setting.kind is SWITCH:
        group.add_argument(
            setting.flag, dest=setting.flag, default=argparse.SUPPRESS, help=text, action=argparse.BooleanOptionalAction
        )
    else:
        action = "append" if setting.many else "store"
        group.add_argument(
            setting.flag,
            dest=setting.flag,
            default=argparse.SUPPRESS,
            help=text,
            action=action,
            metavar=setting.kind.metavar,
        )
