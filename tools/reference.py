"""Writes docs/reference/ from the code's own declarations: `make docs`, which is `python -m tools.reference`.

Settings, metrics, errors with exit codes, and the kinds of the API. tests/unit/test_docs.py fails while a page differs
from what the code declares, so the pages are never edited by hand and never merged: run `make docs` again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cacheserver import errors, metrics, model
from cacheserver.api.describe.reference import reference
from cacheserver.cli.arguments import FAILED, INTERRUPTED, OK, USAGE
from cacheserver.config import CONFIG_ENV, CONFIG_FLAG, SETTINGS, SUBJECTS

DIRECTORY: Final = Path(__file__).parents[1] / "docs" / "reference"

_NOTICE: Final = "<!-- Written by `make docs` from the code; edits here are lost. -->"

_SUBJECT_TITLES: Final[Mapping[str, str]] = {
    "content": "What is served",
    "etcd": "etcd",
    "serving": "The API",
    "cache": "Memory",
    "parsing": "Parsing and its limits",
    "authoring": "What may be written",
    "logs": "Logs",
}
_EXIT_CODES: Final[Mapping[int, str]] = {
    OK: "done",
    FAILED: (
        "failed. `validate`: a package is rejected, a file cannot be read, or there is no package. `ingest`: a catalog "
        "could not be read, was refused as a whole, or holds no package; with `--fail-on-rejected` also: a package is "
        "rejected or a file cannot be read. `doctor`: a check failed"
    ),
    USAGE: "the command line or the configuration is wrong; the message names the flag, variable, or file and line",
    INTERRUPTED: "interrupted from the keyboard",
}
_LABELS: Final[Mapping[str, str]] = {
    model.LABEL_REPOSITORY: "name of the Repository that the object comes from",
    model.LABEL_PACKAGE: "its name (FBC), or its path with dots for slashes (KRM: `network.dns` for `network/dns`)",
    model.LABEL_FORMAT: " or ".join(f"`{one}`" for one in model.Format),
    model.LABEL_LIFECYCLE: "`spec.lifecycle`; on revisions",
    model.LABEL_LATEST: "`true` on the latest revision of a package, absent from all others",
}
_ANNOTATIONS: Final[Mapping[str, str]] = {
    model.ANNOTATION_ALLOW_EMPTY: "`true`: the source may become empty; without it, what was served stays",
    model.ANNOTATION_USERS: "names of the labels and annotations that users gave the object; set by the server",
    model.ANNOTATION_SHOWN: "on a package: doors that show it, where nothing else says so (Rukpak); set by the server",
    model.ANNOTATION_DISPLAY_NAME: "name of the catalog for people, in its PackageManifests",
    model.ANNOTATION_PUBLISHER: "who publishes the catalog, in its PackageManifests",
    model.ANNOTATION_REQUESTED: "any new value, a time for example, asks for a sync now; in a cluster",
}


def settings() -> str:
    lines = [
        "# Settings",
        "",
        "Each setting can be given as a flag, as an environment variable, or as a key of the file that `--config`",
        "names. The flag wins over the variable, the variable over the file.",
        "[Operating](../operating.md#settings) has an example.",
    ]
    for name, subject in SUBJECTS.items():
        lines += [
            "",
            f"## {_SUBJECT_TITLES[name]}",
            "",
            *_head("flag", "variable", "key in the file", "default", "meaning"),
        ]
        lines += [
            _row(
                _code(f"{setting.flag} {setting.kind.metavar}".strip()),
                _code(setting.env),
                _code(setting.key),
                _code(setting.default),
                setting.help,
            )
            for setting in SETTINGS
            if setting.subject is subject
        ]
    lines += ["", "## The file itself", "", *_head("flag", "variable", "meaning")]
    return _page(lines, [_row(_code(f"{CONFIG_FLAG} FILE"), _code(CONFIG_ENV), "The file with settings.")])


def metric_families() -> str:
    lines = [
        "# Metrics",
        "",
        "`/metrics` has these in Prometheus' text format. Names are kube-apiserver's where the meaning is the same.",
        "",
        *_head("metric", "type", "labels", "meaning"),
    ]
    return _page(lines, _metric_rows())


def _metric_rows() -> Iterator[str]:
    for family in sorted(metrics.registry().collect(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels: Sequence[str] = getattr(family, "_labelnames", ())  # prometheus_client keeps them to itself
        yield _row(_code(name), family.type, ", ".join(map(_code, labels)), family.documentation)


def error_classes() -> Iterator[type[errors.CacheServerError]]:
    """Every error of ours, in the order of the code."""
    found = [
        error
        for _name, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.CacheServerError)
    ]
    yield from sorted(found, key=lambda error: inspect.getsourcelines(error)[1])


def errors_and_codes() -> str:
    lines = ["# Errors and exit codes", "", "## Exit codes", "", *_head("code", "means")]
    lines += [_row(str(code), meaning) for code, meaning in _EXIT_CODES.items()]
    lines += [
        "",
        "## Errors",
        "",
        "What log lines and messages call by name. Where there is a reason, a Repository's conditions give it:",
        "[Troubleshooting](../troubleshooting.md#state-of-a-repository) has the remedies.",
        "",
        *_head("error", "condition's reason", "means"),
    ]
    for error in error_classes():
        own = vars(error).get("__doc__") or ""
        reason = error.reason if issubclass(error, errors.SourceError) else ""
        lines.append(_row(_code(error.__name__), _code(reason), " ".join(own.split())))
    return _page(lines)


def kinds() -> str:
    lines = [
        "# Kinds",
        "",
        "Every kind with its columns, selectors and fields, as `kubectl explain` tells them. How to ask is in",
        "[The API](../api.md).",
        "",
        "## Labels",
        "",
        *_head("label", "value"),
        *(_row(_code(label), meaning) for label, meaning in _LABELS.items()),
        "",
        "A KRM package also has the valid labels of its Kptfile, but for any of the domain `cacheserver.dev`.",
        "",
        "## Annotations of a Repository",
        "",
        *_head("annotation", "meaning"),
        *(_row(_code(name), meaning) for name, meaning in _ANNOTATIONS.items()),
        "",
    ]
    return _page(lines, [reference().rstrip()])


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings,
    "metrics.md": metric_families,
    "errors.md": errors_and_codes,
    "kinds.md": kinds,
}
"""File in docs/reference -> what it has to be."""


def _page(lines: Iterable[str], more: Iterable[str] = ()) -> str:
    return "\n".join((_NOTICE, "", *lines, *more, ""))


def _head(*names: str) -> tuple[str, str]:
    return _row(*names), "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Fit for a table of Markdown, where a bar ends the cell, and `<` outside of code begins HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def write() -> None:
    """All pages, and nothing beside them: a page that is made no more is removed."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for old in set(DIRECTORY.glob("*.md")) - {DIRECTORY / name for name in PAGES}:
        old.unlink()
    for name, make in PAGES.items():
        (DIRECTORY / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write()
