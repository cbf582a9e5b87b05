"""The command line: arguments to Settings, a command to the room that does it, errors to exit codes (arguments.py).

0 done; 1 failed; 2 the command line or configuration is wrong. What is asked for goes to
stdout; progress, logs and errors go to stderr. The server is imported only by the commands that need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import difflib
import errno
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import cacheserver
from cacheserver import config
from cacheserver.cli import logs
from cacheserver.cli.arguments import FAILED, INTERRUPTED, OK, USAGE, parse
from cacheserver.cli.terminal import Progress, Terminal, banner, finding_lines, ingest_table, table
from cacheserver.config import RepositoryConfig, Settings
from cacheserver.errors import CacheServerError, ConfigError, EtcdStartError
from cacheserver.headstart import HeadStart

if TYPE_CHECKING:
    from cacheserver.ingest import SyncReport
    from cacheserver.server.begun import Begun

T = TypeVar("T")

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What the command line asks of `cacheserver.server.serve`."""

    async def serve(self, settings: Settings, *, ready: Callable[[Begun], None], progress: Progress) -> int:
        """Until SIGTERM or SIGINT; the exit code. Calls `ready` once, when there is something to see."""
        ...

    async def ingest(
        self,
        settings: Settings,
        *,
        progress: Progress,
        on_report: Callable[[SyncReport], None],
        on_error: Callable[[RepositoryConfig, CacheServerError], None],
        begun: HeadStart | None,
    ) -> None:
        """Every repository once. Each ends in one call: on_report, or on_error for one that failed as a whole."""
        ...


def main(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    engine: Engine | None = None,
    begun: HeadStart | None = None,
) -> int:
    """Run one command; returns the exit code. environ: the process's own if None. engine: `cacheserver.server.serve`
    if None. begun: a worker for a command that parses.

    Raises SystemExit for --help and for what argparse refuses (2).
    """
    environ = os.environ if environ is None else environ
    arguments = parse(argv)
    terminal = Terminal(colour=not environ.get("NO_COLOR"))  # no-color.org: set and not empty
    debug = False
    try:
        flags = {name: value for name, value in arguments.items() if name.startswith("--")}
        settings = config.load(flags, environ, cwd=Path.cwd())
        debug = settings.logs.level is config.LogLevel.DEBUG
        logs.configure(settings.logs, colour=terminal.colour)
        for name in config.unknown_environment(environ):
            close = difflib.get_close_matches(name, [setting.env for setting in config.SETTINGS], n=1)
            hint = {"did_you_mean": close[0]} if close else {}
            log.warning("environment variable is not a setting and has no effect", extra={"variable": name, **hint})
        return _run(arguments, settings, terminal, engine, begun)
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


def _run(
    arguments: Mapping[str, Any], settings: Settings, terminal: Terminal, engine: Engine | None, begun: HeadStart | None
) -> int:
    match arguments["command"]:
        case "serve":
            config.check_listen(settings)
            _require_content(settings, serving=True)
            config.check_typed_catalogs(arguments.get("--catalog", ()), Path.cwd())
            return _serve(settings, terminal, engine or _server())
        case "ingest":
            _require_content(settings, serving=False)
            config.check_typed_catalogs(arguments.get("--catalog", ()), Path.cwd())
            strict, most = arguments["fail_on_rejected"], arguments["max_findings"]
            engine = engine or _server()
            return _ingest(settings, terminal, engine, begun, fail_on_rejected=strict, most=most)
        case "validate":
            from cacheserver.cli.validate import validate  # noqa: PLC0415  see _server

            source, kind, most = arguments["source"], arguments["format"], arguments["max_findings"]
            return validate(source, kind, settings, terminal, most=most, begun=begun)
        case "doctor":
            return _doctor(settings, terminal)
        case "certs":
            return _certs(arguments["directory"], arguments["service_namespace"], arguments["days"], terminal)
        case _:
            return _version(settings, terminal)


def _server() -> Engine:
    from cacheserver.server import serve  # noqa: PLC0415  validate, version and --help do without aiohttp and protobuf

    return serve


def _on_uvloop(work: Coroutine[Any, Any, T]) -> T:
    import uvloop  # noqa: PLC0415  see _server

    return uvloop.run(work)


def _serve(settings: Settings, terminal: Terminal, engine: Engine) -> int:
    # In a container stdout joins the JSON log lines: there the log's own line with the URL is enough.
    talks = terminal.interactive or logs.is_text(settings.logs, sys.stderr)
    with contextlib.ExitStack() as until_ready:
        progress = until_ready.enter_context(terminal.progress())

        def ready(begun: Begun) -> None:
            until_ready.close()
            if talks:
                terminal.out(banner(begun))

        return _on_uvloop(engine.serve(settings, ready=ready, progress=progress))


def _require_content(settings: Settings, *, serving: bool) -> None:
    """A server on a shared etcd may serve what others ingest, and one in a cluster gets them from there; else it is a
    mistake to have nothing to read."""
    if settings.repositories or (serving and (settings.from_cluster or not settings.etcd.embedded)):
        return
    raise ConfigError("there is no catalog to read: give --catalog NAME=SOURCE or --repositories FILE (see --help)")


def _ingest(
    settings: Settings,
    terminal: Terminal,
    engine: Engine,
    begun: HeadStart | None,
    *,
    fail_on_rejected: bool,
    most: int,
) -> int:
    """most: findings of a catalog that are printed."""
    reports: list[SyncReport] = []
    errors: list[str] = []

    def failed(repository: RepositoryConfig, error: CacheServerError) -> None:
        errors.append(f"{repository.key.name}: {error}")

    with terminal.progress() as progress:
        work = engine.ingest(settings, progress=progress, on_report=reports.append, on_error=failed, begun=begun)
        _on_uvloop(work)
    if reports:
        terminal.out(ingest_table(reports))
    may_be_empty = {
        repository.key for repository in settings.repositories if repository.allow_empty or repository.deployment
    }
    for report in reports:
        name = report.repository.name
        for line in finding_lines(report.findings, most, terminal, prefix=f"{name}: "):
            terminal.out(line)
        if report.message:
            errors.append(f"{name}: {report.message} [{report.reason}]")
        elif not report.packages and report.repository not in may_be_empty:
            errors.append(f"{name}: no package was found; `cacheserver validate` says what was looked for")
        elif fail_on_rejected and report.all_rejected:
            are = "package is" if report.all_rejected == 1 else "packages are"
            errors.append(f"{name}: {report.all_rejected} {are} rejected, and --fail-on-rejected is given")
        elif fail_on_rejected and report.unreadable:
            errors.append(f"{name}: a file could not be read, and --fail-on-rejected is given")
    for error in errors:
        terminal.error(error)
    return FAILED if errors else OK


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
        print("The same command with --log-level debug says more.", file=sys.stderr)
    return USAGE if all(isinstance(cause, ConfigError) for cause in causes) else FAILED


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions inside a TaskGroup's group, or the one exception there is."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
