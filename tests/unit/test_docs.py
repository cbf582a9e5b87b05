"""The documentation says what the code has, its pages are all listed, and its links lead somewhere.

What is generated (docs/reference) is compared with what the code declares: `make docs` writes it anew.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from cacheserver import errors, model
from cacheserver.config import CONFIG_FLAG, SETTINGS
from cacheserver.config.repositories import Defaults, from_path
from tools import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
MOST_README_LINES = 150
WRITTEN = sorted(
    page
    for directory in (".", "docs", "docs/reference", "configs/etcd", "examples/catalogs")
    for page in (ROOT / directory).glob("*.md")
)
CAMEL_CASE = re.compile(r"[A-Z][a-z]+([A-Z][a-z]+)*")
NO_REASONS = {"Ready", "Reconciling", "Stalled", "Degraded", "True", "False", "Unknown", "Auto"}
"""Words in ingest that look like one."""


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_no_page_has_both_sides_of_a_merge() -> None:
    pages = [*WRITTEN, *DOCS.rglob("*.md")]
    assert [_id(page) for page in pages if re.search(r"(?m)^(<{7}|>{7}) ", page.read_text(encoding="utf-8"))] == []


# --- what is generated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_of_the_reference_is_what_the_code_says(name: str) -> None:
    assert (reference.DIRECTORY / name).read_text(encoding="utf-8") == reference.PAGES[name](), "run `make docs`"


def test_nothing_else_lies_among_the_generated_pages() -> None:
    assert {page.name for page in reference.DIRECTORY.iterdir()} == set(reference.PAGES)


def test_every_setting_and_error_says_what_it_means() -> None:
    assert [setting.flag for setting in SETTINGS if not setting.help.endswith(".")] == []
    assert [found.__name__ for found in reference.error_classes() if not vars(found).get("__doc__")] == []


def test_every_label_and_annotation_of_ours_is_explained() -> None:
    ours = {value for name, value in vars(model).items() if name.startswith(("LABEL_", "ANNOTATION_"))}
    page = reference.PAGES["kinds.md"]()
    assert len(ours) > 5
    assert sorted(name for name in ours if f"| `{name}` | " not in page) == []


# --- reasons ------------------------------------------------------------------------------------------------------


def _reasons() -> set[str]:
    """Reasons that a Repository's conditions can carry: those of source errors, and the words in ingest."""
    reasons = {found.reason for found in reference.error_classes() if issubclass(found, errors.SourceError)}
    for path in (ROOT / "cacheserver" / "ingest").rglob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CAMEL_CASE.fullmatch(node.value):
                reasons.add(node.value)
    return reasons - NO_REASONS


def test_every_reason_of_a_condition_has_a_remedy() -> None:
    assert sorted(_reasons() - _explained("troubleshooting.md")) == [], "explain it in docs/troubleshooting.md"


FINDING = re.compile(r"(?=.*[a-z])(?:[A-Z]+[a-z0-9]*){2,}")
"""A reason of a finding; those of one word are told by where they stand."""
NO_FINDINGS = {
    "ClusterServiceVersion",
    "DeletionProposed",
    "NoPipeline",
    "NoRunner",
    "ParseLimits",
    "ParsedPackage",
}
"""Words in catalogs that look like one."""


def _findings() -> set[str]:
    """Reasons that a finding can carry: words in two humps anywhere, those in one where a finding has its reason."""
    found = set()
    places = (ROOT / "cacheserver" / "catalogs", ROOT / "cacheserver" / "sources" / "git")
    for path in (path for place in places for path in place.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first: ast.AST | None = None
            if isinstance(node, ast.Call) and node.args:
                first = node.args[0]
            elif isinstance(node, ast.Tuple) and len(node.elts) > 1:
                first = node.elts[0]
            for one, form in ((node, FINDING), (first, CAMEL_CASE)):
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and form.fullmatch(one.value):
                    found.add(one.value)
    return found - NO_FINDINGS


def _explained(page: str) -> set[str]:
    """What the first cells of a page's tables name."""
    cells = re.findall(r"^\| (`[^|]*) \|", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_reason_of_a_finding_is_explained() -> None:
    assert "Cycle" in _findings()
    assert sorted(_findings() - _explained("findings.md")) == [], "explain it in docs/findings.md"
    assert sorted(_explained("findings.md") - _findings()) == [], "docs/findings.md explains what is gone"


# --- what is written by hand --------------------------------------------------------------------------------------


def test_the_readme_stays_short() -> None:
    assert README.read_text(encoding="utf-8").count("\n") <= MOST_README_LINES


def _nav(entry: Any) -> Iterator[str]:
    """The pages of a mkdocs navigation: a page, {title: page}, or {title: [entries]}."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, list):
        for inner in entry:
            yield from _nav(inner)
    else:
        for inner in entry.values():
            yield from _nav(inner)


def test_every_page_stands_in_the_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(_nav(settings["nav"])) == there, "mkdocs.yml lists every page of docs/"


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def _anchors(page: Path) -> set[str]:
    """As GitHub and mkdocs make them of headings: lower case, words and hyphens, blanks as hyphens."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WRITTEN, ids=_id)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            broken.append(target)
    assert broken == []


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in WRITTEN:
        for block in re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            yield _id(page), block


def test_every_repository_in_the_docs_is_one(tmp_path: Path) -> None:
    manifests = [block for _, block in _blocks("yaml") if "kind: Repository" in block]
    assert manifests
    for block in manifests:
        # Secrets are a cluster's; everything else is under the same rules in a file.
        text = re.sub(r"^  (secretRef|caSecretRef):\n    name: .*\n", "", block, flags=re.MULTILINE)
        (tmp_path / "repository.yaml").write_text(text)
        assert list(from_path(tmp_path / "repository.yaml", Defaults()))


def test_the_docs_name_only_variables_that_are_settings() -> None:
    known = {setting.env for setting in SETTINGS} | {"CACHESERVER_CONFIG"}
    for page in WRITTEN:
        named = set(re.findall(r"CACHESERVER_[A-Z_]+", page.read_text(encoding="utf-8")))
        assert {name for name in named - known if not name.startswith("CACHESERVER_TEST_")} == set(), page


def test_the_docs_name_only_flags_that_the_command_line_takes() -> None:
    known = {setting.flag for setting in SETTINGS} | {CONFIG_FLAG, "--as", "--days", "--service-namespace", "--help"}
    for page in WRITTEN:
        for command in re.findall(
            r"cacheserver (?:serve|ingest|validate|certs|doctor)[^\n`|]*", page.read_text("utf-8")
        ):
            flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", command))
            assert flags - known == set(), (page, command)


def test_make_help_tells_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    told = set(re.findall(r"^([a-z0-9]+):.*## ", text, re.MULTILINE))
    assert set(phony[1].split()) == told
