"""What ARCHITECTURE.md draws is what was built: layers, loops, libraries, and the decisions that others cite."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
CODE = ROOT / "cacheserver"


def _section(title: str) -> str:
    """The text below a heading, up to the next one of its kind."""
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    [drawn] = re.findall(r"^```\n(\{? ?cli .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    said = [sorted(re.findall(r"\w+", layer)) for layer in drawn.split("->")]
    assert said == [sorted(re.findall(r"\w+", layer)) for layer in layers if layer != "__main__"]


def test_every_loop_is_in_a_file_that_is_there() -> None:
    rows = re.findall(r"^\| [^|]*\(([^|]*)\) \|", _section("Loops"), re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        named = [CODE / first, *(CODE / other if "/" in other else (CODE / first).with_name(other) for other in others)]
        assert [path for path in named if not path.exists()] == []


def test_every_library_that_is_installed_or_imported_has_its_line() -> None:
    rows = re.findall(r"^\| ([a-zA-Z][^|]*) \|", _section("Dependencies"), re.MULTILINE)
    named = {name.lower() for row in rows for name in re.findall(r"[\w-]+", re.sub(r"\(.*\)", "", row))} - {"package"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: each for name, each in project["optional-dependencies"].items() if name not in ("test", "browser")}
    installed = [*project["dependencies"], *(one for each in extras.values() for one in each)]
    assert {re.split(r"[<>=\[;]", one)[0].lower() for one in installed} == named
    sold_as = {
        root: {name.lower().replace("_", "-") for name in names} for root, names in packages_distributions().items()
    }
    modules = {module.partition(".")[0] for module in _imported()} - set(sys.stdlib_module_names) - {"cacheserver"}
    assert [module for module in modules if not sold_as.get(module, set()) & named] == []


def _imported() -> set[str]:
    found: set[str] = set()
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return found


def test_every_decision_that_is_cited_is_there_and_has_a_number_of_its_own() -> None:
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \*\*", PAGE.split("\n## Decisions", 1)[1], re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    places = [*CODE.rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
    cited = {
        int(number)
        for path in places
        for number in re.findall(
            r"(?:ARCHITECTURE(?:\.md)?,? (?:decision )?|decision )(\d+)\b", path.read_text("utf-8")
        )
    }
    assert cited
    assert cited <= set(numbers)
