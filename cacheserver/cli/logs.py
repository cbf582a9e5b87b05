"""How log records look: one line of JSON, or one line of text for people. Nothing else configures logging.

Formatters of the standard library's logging; `configure` is called once, by the command line.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import orjson

from cacheserver.config import LogFormat, LogSettings

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}
_RESET: Final = "\x1b[0m"


_NOISE: Final = frozenset(("SSL connection is closed", "socket.send() raised exception."))
"""uvloop, of an answer to a client that has just gone: some lines for each, with which anybody could fill the log, and
nothing that could be done. The answer ends as soon as the loop says that the connection has."""


def configure(settings: LogSettings, stream: TextIO | None = None, *, colour: bool = False) -> None:
    """Every record of the process to `stream` (stderr), in the settings' format. colour: where it is a terminal."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    terminal = stream.isatty()
    handler.setFormatter(TextFormatter(colour=colour and terminal) if is_text(settings, stream) else JSONFormatter())
    handler.addFilter(lambda record: record.name != "asyncio" or record.msg not in _NOISE)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.value.upper())
    # Ours: asyncio logs at debug level only which selector it picked.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def is_text(settings: LogSettings, stream: TextIO) -> bool:
    """True when `stream` gets text: asked for, or a terminal that nobody asked JSON for."""
    return settings.format is LogFormat.TEXT or (settings.format is LogFormat.AUTO and stream.isatty())


def one_line(text: str) -> str:
    """`text` with everything that could move a terminal's cursor, or break the line, written as an escape."""
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave as `extra`, in its order."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JSONFormatter(logging.Formatter):
    """`ts` (RFC 3339, UTC, ms), `level`, `msg`, `logger`, then the fields; `trace` where there was an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line: a JSON object with ts (UTC), level, msg, logger, and the fields of the event."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:
            # Lone surrogates and integers over 64 bits: a log line that fails would hide what it says.
            return orjson.dumps({name: _encodable(value) for name, value in line.items()}).decode()


def _encodable(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """`09:49:02 INFO    repository applied  repository=community written=12`; local time; tracebacks below."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line for people: local time, level, message, fields as `name=value`; a traceback on lines of its own."""
        moment = datetime.fromtimestamp(record.created).astimezone()
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        level = f"{record.levelname:<7}"
        if self._colour and record.levelno in _COLOURS:
            level = f"{_COLOURS[record.levelno]}{level}{_RESET}"
        line = f"{moment:%H:%M:%S} {level} {one_line(record.getMessage())}" + (f" {fields}" if fields else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else one_line(str(value))
    return f'"{text}"' if " " in text or not text else text
