"""Every command that the documentation shows with a prompt is run as it is written, and prints what is shown."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support.krm import KRMRepository
from tests.support.pages import Command, Shell, alike, commands, section, serve_flags
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not shutil.which("kubectl"), reason="NO KUBECTL FOUND: put one on PATH to run these tests"),
    pytest.mark.skipif(not shutil.which("curl"), reason="NO CURL FOUND: put it on PATH to run these tests"),
]

ROOT = Path(__file__).parents[2]
EXAMPLES = ("--catalog", "example=examples/catalogs", "--interval", "10s")
"""As `make run` serves them, which the pages begin with."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where the commands are run: the examples, and the broken catalog that the pages show."""
    directory = tmp_path / "checkout"
    shutil.copytree(ROOT / "examples", directory / "examples")
    shutil.copytree(ROOT / "tests" / "fixtures" / "docs", directory, dirs_exist_ok=True)
    return directory


def _check(shell: Shell, page: Path, wanted: Callable[[Command], bool] = lambda command: True) -> int:
    """Runs the commands and compares; how many there were."""
    count = 0
    for command in filter(wanted, commands(page)):
        said = shell.run(command)
        there = "\n".join(said)
        assert alike(said, command.output), f"{page.name}:{command.line}: {command.text}\nprints now\n{there}"
        count += 1
    return count


async def test_the_cookbook(start_server: StartServer, checkout: Path) -> None:
    page = ROOT / "docs" / "cookbook.md"
    prepared = _check(Shell(checkout), page, lambda command: not _asks(command, page))
    server = start_server(*_absolute(serve_flags(page, checkout), checkout))
    await eventually(lambda: len(server.names()) == 7, within_s=30)
    asked = _check(Shell(checkout, f"127.0.0.1:{server.port}"), page, lambda command: _asks(command, page))
    assert prepared > 5
    assert asked > 20


@pytest.mark.parametrize("name", ["README.md", "docs/api.md", "docs/operating.md"])
async def test_a_page_about_the_examples(name: str, start_server: StartServer, checkout: Path) -> None:
    page = ROOT / name
    elsewhere = section(page, "## Make a package") if name == "README.md" else range(0)  # test_make_run.py
    server = start_server(*_absolute(EXAMPLES, checkout))
    await eventually(lambda: len(server.names("packagerevisions")) == 15, within_s=30)
    shell = Shell(checkout, f"127.0.0.1:{server.port}")
    assert _check(shell, page, lambda command: command.line not in elsewhere) > 0


async def test_how_git_becomes_revisions(start_server: StartServer, tmp_path: Path) -> None:
    """The table of docs/sources.md, against a repository with the refs that it names."""
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (?:tag|branch|directory) `.*$", page, re.MULTILINE)
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    repository = KRMRepository(tmp_path / "blueprints")
    repository.package("network/dns", "1")
    for tag in ("v1", "v2", "v1.4.0"):
        repository.tag(f"network/dns/{tag}")
    for branch in ("drafts/network/dns/bigger", "proposed/network/dns/smaller", "deletionProposed/network/dns/v1"):
        repository.branch(branch)
    assert {row[0] for row in rows if not row[0].startswith("directory")} == _refs(repository) - {"tag `network/dns/v1"}
    server = start_server("--catalog", f"blueprints=git+{repository.url}")
    await eventually(lambda: len(server.names("packagerevisions")) == 6, within_s=30)
    served = {
        item["spec"]["revision"]: (
            item["spec"]["lifecycle"], item["spec"]["version"] or "empty", str(item["status"]["revisionNumber"])
        )
        for item in server.list("packagerevisions", "?fieldSelector=spec.packageName%3Dnetwork/dns")["items"]
    }  # fmt: skip
    said = {revision: (lifecycle, version, number) for _, _, lifecycle, revision, version, number in rows if revision}
    assert len(said) == 5
    assert served == {**said, "v1": ("DeletionProposed", "v1", "1")}


def _refs(repository: KRMRepository) -> set[str]:
    """Each as the page writes it, but for the last quote; the branch itself left out."""
    kinds = {"tags": "tag", "heads": "branch"}
    named = (ref.split("/", 2) for ref in repository.git("for-each-ref", "--format=%(refname)").splitlines())
    return {f"{kinds[kind]} `{short}" for _, kind, short in named if short != "main"}


def _asks(command: Command, page: Path) -> bool:
    """Whether it is behind the command that starts the server."""
    before, _, _ = page.read_text(encoding="utf-8").partition("\ncacheserver serve ")
    return command.line > before.count("\n")


def _absolute(flags: Sequence[str], checkout: Path) -> Sequence[str]:
    """The server of a test runs elsewhere: paths of the examples are those of the checkout."""
    return [flag.replace("=examples/", f"={checkout}/examples/") for flag in flags]
