"""/healthz, /livez, /readyz, each check of theirs, and /version. Answers whatever the store does.

Form: k8s.io/apiserver/pkg/server/healthz/healthz.go.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final
from urllib.parse import parse_qs

import orjson

from cacheserver.api.http.reply import TEXT, Reply, header, whole
from cacheserver.api.status import no_such_path

log = logging.getLogger(__name__)

HealthCheck = Callable[[], str | None]
"""None when all is well, else the reason, for the log and the check's own path."""

_START_S: Final = 60.0
"""Ours: for so long after it was first asked, a check that never passed is a start and no trouble."""

_NOSNIFF = header("X-Content-Type-Options", "nosniff")


class Health:
    """ready: what /readyz and /healthz ask. live: what /livez asks; a failure there gets the process restarted.

    notes: shown by /readyz?verbose, and fail nothing: to be unready would take away what is served well.
    """

    def __init__(
        self,
        ready: Mapping[str, HealthCheck],
        live: Mapping[str, HealthCheck],
        notes: Mapping[str, HealthCheck] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stopping = False
        self._notes = notes or {}
        ping: Mapping[str, HealthCheck] = {"ping": lambda: None}
        self._checks: Mapping[str, Mapping[str, HealthCheck]] = {
            "healthz": {**ping, **ready},
            "livez": {**ping, **live},
            "readyz": {**ping, **ready, "shutdown": lambda: "process is shutting down" if self._stopping else None},
        }
        self._now = now
        self._begun: dict[str, float] = {}  # checks that never passed, and since when they are asked
        self._passed: set[str] = set()
        self._failing: set[str] = set()

    @property
    def names(self) -> Collection[str]:
        """First steps of the paths that this answers."""
        return self._checks.keys()

    def begin_shutdown(self) -> None:
        """From now on /readyz fails, so that nobody new is sent here; /livez goes on to pass."""
        self._stopping = True

    def answer(self, path: str, query: str) -> Reply:
        """Raises: StatusError 404 for a check that does not exist."""
        parts = path.strip("/").split("/")
        checks = self._checks[parts[0]]
        if len(parts) == 1:
            return self._all(parts[0], checks, query)
        check = checks.get(parts[1])
        if len(parts) > 2 or check is None:
            raise no_such_path()
        reason = check()
        if reason is None:
            return whole(b"ok", content_type=TEXT, extra=_NOSNIFF)
        return _failed(f"internal server error: {reason}\n")

    def _all(self, endpoint: str, checks: Mapping[str, HealthCheck], query: str) -> Reply:
        parameters = parse_qs(query, keep_blank_values=True)
        excluded = set(parameters.get("exclude", ()))
        lines: list[str] = []
        failed: list[str] = []
        for name, check in checks.items():
            if name in excluded:
                excluded.discard(name)
                lines.append(f"[+]{name} excluded: ok\n")
                continue
            reason = check()
            self._note(endpoint, name, reason)
            if reason is None:
                lines.append(f"[+]{name} ok\n")
            else:
                failed.append(name)
                # Withheld here is what each check's own path says to all; who asks for everything gets it here too.
                lines.append(f"[-]{name} failed: {reason if 'verbose' in parameters else 'reason withheld'}\n")
        if endpoint == "readyz":
            lines += [f"[!]{name}: {text}\n" for name, note in self._notes.items() if (text := note()) is not None]
        if excluded:
            names = ",".join(f'"{name}"' for name in sorted(excluded))
            lines.append(f"warn: some health checks cannot be excluded: no matches for {names}\n")
        if failed:
            return _failed("".join(lines) + f"{endpoint} check failed\n")
        if "verbose" not in parameters:
            return whole(b"ok", content_type=TEXT, extra=_NOSNIFF)
        body = "".join(lines) + f"{endpoint} check passed\n"
        return whole(body.encode(), content_type=TEXT, extra=_NOSNIFF)

    def _note(self, endpoint: str, name: str, reason: str | None) -> None:
        """Log the first failure and the recovery of a check; what has yet to pass the first time is not one at once."""
        key = f"{endpoint}/{name}"
        if reason is None:
            if key in self._failing or key in self._begun:
                first = key not in self._passed
                log.info("health check passes" if first else "health check passes again", extra={"check": key})
            self._passed.add(key)
            self._failing.discard(key)
            self._begun.pop(key, None)
        elif key not in self._failing:
            if key not in self._passed and key not in self._begun:
                self._begun[key] = self._now()
                log.info("not ready yet", extra={"check": key, "reason": reason})
            if self._now() - self._begun.get(key, float("-inf")) > _START_S:
                self._failing.add(key)
                log.warning("health check failed", extra={"check": key, "reason": reason})


def _failed(text: str) -> Reply:
    return whole(text.encode(), status=500, content_type=TEXT, extra=_NOSNIFF)


def version_document(version: str) -> bytes:
    """What /version says (k8s: version.Info), indented as kube-apiserver does."""
    major, _, rest = version.partition(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    document = {
        "major": major,
        "minor": rest.partition(".")[0],
        "gitVersion": f"v{version}",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system().lower()}/{machine}",
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)
