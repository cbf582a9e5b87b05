"""README says what the code has: every setting, metric, error and condition reason, and nothing that is gone.

The tables between `<!-- begin:NAME -->` and `<!-- end:NAME -->` are written by `make docs`, which runs this file.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheserver import errors, metrics
from cacheserver.config import CONFIG_ENV, CONFIG_FLAG, SETTINGS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CAMEL_CASE = re.compile(r"[A-Z][a-z]+([A-Z][a-z]+)*")
NO_REASONS = {"Ready", "Reconciling", "Stalled", "Degraded", "True", "False", "Auto"}
"""Words in ingest that look like one."""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def settings_table() -> str:
    rows = [_row("flag", "variable", "key in the file", "default", "meaning"), "|---|---|---|---|---|"]
    for setting in SETTINGS:
        flag = f"{setting.flag} {setting.kind.metavar}".strip()
        cells = (_code(flag), _code(setting.env), _code(setting.key), _code(setting.default), setting.help)
        rows.append(_row(*cells))
    rows.append(_row(_code(f"{CONFIG_FLAG} FILE"), _code(CONFIG_ENV), "", "", "The file with settings."))
    return "\n".join(rows)


def metrics_table() -> str:
    rows = [_row("metric", "type", "meaning"), "|---|---|---|"]
    for family in sorted(metrics.registry().collect(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(_row(_code(name), family.type, family.documentation))
    return "\n".join(rows)


def _error_classes() -> Iterator[type[errors.CacheServerError]]:
    for _name, found in inspect.getmembers(errors, inspect.isclass):
        if issubclass(found, errors.CacheServerError):
            yield found


def errors_table() -> str:
    rows = [_row("error", "condition's reason", "means"), "|---|---|---|"]
    for found in sorted(_error_classes(), key=lambda found: inspect.getsourcelines(found)[1]):
        own = vars(found).get("__doc__") or ""
        reason = found.reason if issubclass(found, errors.SourceError) else ""
        rows.append(_row(_code(found.__name__), _code(reason), " ".join(own.split())))
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "errors": errors_table,
}


def _written(name: str, text: str) -> str:
    """What stands between the marks of a table, the marks included; empty when they are not there."""
    found = re.search(rf"<!-- begin:{name} -->\n.*?<!-- end:{name} -->", text, re.DOTALL)
    return found[0] if found else ""


def _made(name: str) -> str:
    return f"<!-- begin:{name} -->\n{TABLES[name]()}\n<!-- end:{name} -->"


def _write() -> None:
    text = README.read_text(encoding="utf-8")
    for name in TABLES:
        old = _written(name, text)
        assert old, f"README.md has no <!-- begin:{name} --> ... <!-- end:{name} -->"
        text = text.replace(old, _made(name))
    README.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_readme_is_what_the_code_says(name: str) -> None:
    assert _written(name, README.read_text(encoding="utf-8")) == _made(name), "run `make docs`"


def test_every_setting_and_error_says_what_it_means() -> None:
    assert [setting.flag for setting in SETTINGS if not setting.help.endswith(".")] == []
    assert [found.__name__ for found in _error_classes() if not vars(found).get("__doc__")] == []


def _reasons() -> set[str]:
    """Reasons that a Repository's conditions can carry: those of source errors, and the words in ingest."""
    reasons = {found.reason for found in _error_classes() if issubclass(found, errors.SourceError)}
    for name in ("status.py", "sync.py"):
        for node in ast.walk(ast.parse((ROOT / "cacheserver" / "ingest" / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CAMEL_CASE.fullmatch(node.value):
                reasons.add(node.value)
    return reasons - NO_REASONS


def test_every_reason_of_a_condition_is_explained() -> None:
    text = README.read_text(encoding="utf-8")
    assert sorted(reason for reason in _reasons() if f"`{reason}`" not in text) == []


def test_what_the_docs_link_to_is_there() -> None:
    link = re.compile(r"\]\(([^)#: ]+)(?:#[^)]*)?\)")
    linked = [(page.name, target) for page in ROOT.glob("*.md") for target in link.findall(page.read_text("utf-8"))]
    assert linked
    assert [(page, target) for page, target in linked if not (ROOT / target).exists()] == []


def test_make_help_tells_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    told = set(re.findall(r"^([a-z0-9]+):.*## ", text, re.MULTILINE))
    assert set(phony[1].split()) == told


if __name__ == "__main__":
    _write()
