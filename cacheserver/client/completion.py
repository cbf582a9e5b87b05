"""Completion: a script for each shell, and what kubectl runs for it, `kubectl_complete-cacheserver` (KEP-2379)."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from typing import Final

from cacheserver.client.catalog import CONFIG_API, Catalog, said_version
from cacheserver.client.connection import ClientError
from cacheserver.client.output import Output

_NO_FILES: Final = ":4"
"""cobra's directive: no names of files behind these."""
_FILES: Final = ":0"
_MOST: Final = 200
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+\Z", re.ASCII)
"""What no shell reads as more than a word (as Python's shlex has it): others stand in the line unquoted, and a package
may be called `$(reboot)`."""
_LIFECYCLES: Final = {"propose": "Draft", "approve": "Proposed", "reject": "Proposed", "rebase": "Draft"}
_COMPLETER: Final = "kubectl_complete-cacheserver"
_SCRIPTS: Final = {
    "bash": f"""\
_kubectl_cacheserver() {{
  local IFS=$'\\n'
  COMPREPLY=($({_COMPLETER} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null | grep -v '^:'))
}}
complete -o default -o nospace -F _kubectl_cacheserver kubectl-cacheserver
""",
    "zsh": f"""\
#compdef kubectl-cacheserver
local -a found
found=(${{(f)"$({_COMPLETER} "${{(@)words[2,CURRENT]}}" 2>/dev/null | grep -v '^:')"}})
compadd -a found
""",
    "fish": f"""\
function __kubectl_cacheserver
  {_COMPLETER} (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null | string match -v ':*'
end
complete -c kubectl-cacheserver -f -a '(__kubectl_cacheserver)'
""",
}


def script(_catalog: Catalog, asked: Namespace, output: Output) -> int:
    """What a shell reads at its start."""
    output.line(_SCRIPTS[asked.shell].rstrip())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what may stand in the place of the last word, one a line, then a directive. Never fails, and says nothing
    on stderr: a shell would print it into the line that somebody types."""
    words = list(sys.argv[1:] if argv is None else argv) or [""]
    try:
        proposals, directive = _proposals(words[:-1], words[-1])
    except (ArgumentError, ClientError, OSError, ValueError, KeyError):
        proposals, directive = [], _NO_FILES
    found = [each for each in proposals if each.startswith(words[-1]) and _PLAIN.match(each)][:_MOST]
    sys.stdout.write("\n".join([*found, directive]) + "\n")
    return 0


def _proposals(before: Sequence[str], last: str) -> tuple[Sequence[str], str]:
    from cacheserver.client.main import VERBS, common, connect  # noqa: PLC0415  each names the other

    asked, rest = common().parse_known_args(list(before))
    plain = [word for word in rest if not word.startswith("-")]
    verb = next((word for word in plain if word in VERBS), "")
    if not verb:
        return list(VERBS), _NO_FILES
    if last.startswith("-"):
        return [name for option in VERBS[verb].options for name in option.names if name.startswith("--")], _NO_FILES
    given = len(plain) - plain.index(verb) - 1
    words = VERBS[verb].words
    word = words[min(given, len(words) - 1)][0]
    if word == "directory":
        return [], _FILES
    if word == "shell":
        return ["bash", "zsh", "fish"], _NO_FILES
    connection = connect(asked)
    catalog = Catalog(connection, asked.namespace or connection.namespace)
    if word == "repository":
        return [one["metadata"]["name"] for one in catalog.list("repositories", api=CONFIG_API)], _NO_FILES
    if "@" in last:
        package = last.rpartition("@")[0]
        found = catalog.revisions(package)
        return [f"{package}@{said_version(one)}" for one in found], _NO_FILES
    if lifecycle := _LIFECYCLES.get(verb):
        found = catalog.list("packagerevisions", fields=f"spec.lifecycle={lifecycle}")
        return [one["metadata"]["name"] for one in found], _NO_FILES
    return sorted({one["spec"]["packageName"] for one in catalog.list("packages")}), _NO_FILES


if __name__ == "__main__":
    sys.exit(main())
