"""The command line: what its help teaches can be typed, and nothing is loaded that takes time."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cacheserver.client import completion
from cacheserver.client.main import VERBS, main, parser
from cacheserver.client.output import Output

DOCUMENT = Path(__file__).parents[3] / "docs" / "client.md"


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_of_the_help_is_understood(verb: str) -> None:
    for line in VERBS[verb].examples.splitlines():
        words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
        assert parser().parse_args(words).verb == verb


def test_every_verb_has_its_place_in_the_documents() -> None:
    told = DOCUMENT.read_text(encoding="utf-8")
    assert not [verb for verb in VERBS if f"`{verb}" not in told]


def test_flags_may_stand_before_the_verb_and_behind_it() -> None:
    for words in (["-n", "a", "versions", "x", "-o", "wide"], ["-o", "wide", "versions", "x", "-n", "a"]):
        asked = parser().parse_args(words)
        assert (asked.namespace, asked.output) == ("a", "wide")


def test_help_teaches_and_a_word_too_few_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", "--help"]) == 0
    assert "kubectl cacheserver versions ledger-operator --channel stable" in capsys.readouterr().out
    assert main(["versions"]) == 2
    assert "PACKAGE" in capsys.readouterr().err


@pytest.mark.processes
def test_a_start_loads_the_standard_library_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); from cacheserver.client import main; main.main(['--help'])\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - sys.stdlib_module_names - {'cacheserver'}), file=sys.stderr)\n"
        "ours = [name for name in sys.modules if name.startswith('cacheserver.') and '.client' not in name]\n"
        "print(ours, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.splitlines() == ["[]", "[]"]


def test_what_a_catalog_says_does_not_steer_a_terminal() -> None:
    from cacheserver.client.output import plain

    assert plain("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_document_does_not_either_and_reads_the_same(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"summary": "красный \x1b[31m \x9b31m \u202e \U000e0041 \x7f", "more": ["a\nb"]}
    Output(form).document(said)
    printed = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in printed)
    assert (yaml.safe_load if form == "yaml" else json.loads)(printed) == said
    assert form == "yaml" or "красный" in printed


def test_a_token_goes_over_https_or_stays_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", "x", "--server", "http://example.com", "--token", "secret-word"]) == 1
    said = capsys.readouterr().err
    assert "https" in said
    assert "secret-word" not in said


def test_completion_never_fails_and_says_nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        [],
        ["ver"],
        ["versions", "--server", "http://127.0.0.1:9", "a"],
        ["pull", "x", ""],
        ["\x00", "\x1b"],
    ):
        assert completion.main(words) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        assert printed.out.splitlines()[-1].startswith(":")
    completion.main(["ver"])
    assert capsys.readouterr().out == "versions\n:4\n"


def test_completion_proposes_nothing_that_a_shell_would_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["sites/berlin", "$(reboot)", "a`reboot`", "a b", "a;b", "a'b", 'a"b', "a\\b", "~x", "a!b", "a\nb", "*"]
    packages = {"items": [{"spec": {"packageName": name}} for name in names], "metadata": {}}
    monkeypatch.setattr("cacheserver.client.connection.Direct.get", lambda self, path: json.dumps(packages).encode())
    assert completion.main(["versions", "--server", "http://127.0.0.1:9", ""]) == 0
    assert capsys.readouterr().out == "sites/berlin\n:4\n"
