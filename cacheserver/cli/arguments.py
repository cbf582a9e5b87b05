"""What may be typed: the commands, their flags (made from the settings), their help, and their exit codes.

Parses and explains; decides nothing and loads nothing of the server. Values of settings stay text: `config.load` reads
flags, environment and file alike.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import cacheserver
from cacheserver.config import CONFIG_ENV, CONFIG_FLAG, SETTINGS, SUBJECTS, FormatChoice, Setting
from cacheserver.config.quantities import SWITCH

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130  # a shell's 128 + SIGINT

SHOWN_FINDINGS: Final = 100
"""What a person reads, and what a log of a pipeline keeps; a folder that is no catalog has ten thousands."""

_EXAMPLES: Final = {
    "serve": """\
examples:
  cacheserver serve --catalog example=./catalog
      serve a directory of file-based catalogs on http://127.0.0.1:8001, with an etcd of its own
  cacheserver serve --catalog community=./community --catalog mine=./mine --interval 30s --listen 127.0.0.1:9001
  cacheserver serve --repositories ./repositories --etcd https://etcd:2379 --etcd-ca-file ca.pem
  CACHESERVER_CATALOGS=example=./catalog cacheserver serve
  cacheserver serve --config cacheserver.yaml

then, from another terminal:
  kubectl --server http://127.0.0.1:8001 get packages
""",
    "ingest": """\
examples:
  cacheserver ingest --catalog example=./catalog
      read it into the embedded etcd and say what changed; a second run changes nothing
  cacheserver ingest --repositories ./repositories --etcd http://127.0.0.1:2379

exit codes: 0 done, there may be rejected packages; 1 a catalog could not be read, was refused as a whole, or holds no
package, or (--fail-on-rejected) a package is rejected; 2 usage
""",
    "validate": """\
examples:
  cacheserver validate ./catalog
  cacheserver validate ./catalog/operator/catalog.yaml --as FBC
  cacheserver validate oci://registry.example/team/catalog:v4.20

exit codes: 0 all packages are good (there may be warnings); 1 a package is rejected, a file unreadable, or there is no
package; 2 usage
""",
    "certs": """\
examples:
  cacheserver certs configs/kubernetes/self-signed/certificates
      make the certificates of configs/kubernetes/self-signed; the same again renews them
  cacheserver certs - | kubectl apply --server-side -f -
      write them to stdout instead, with authorities that nobody keeps

Private keys are written: keep the directory, and keep it to yourself. With cert-manager none of this is needed.
""",
    "doctor": """\
examples:
  kubectl -n cacheserver exec deploy/cacheserver -- cacheserver doctor
      in a pod of the server, which has its settings: everything is examined
  cacheserver doctor --kubernetes ~/.kube/config
      with an administrator's kubeconfig: the cluster's side
  cacheserver doctor --repositories ./repositories
      whether git lets us push to those that are written to; nothing is pushed
""",
    "version": """\
examples:
  cacheserver version
  cacheserver version --etcd-binary ./etcd
""",
}

_OVERVIEW: Final = """\
examples:
  cacheserver serve --catalog example=./catalog     serve it; then: kubectl --server http://127.0.0.1:8001 get packages
  cacheserver validate ./catalog                    say what is wrong with a catalog, before anybody serves it
  cacheserver ingest --catalog example=./catalog    read it into etcd once, and say what changed
  cacheserver serve --help                          every setting

Every setting can be given as a flag, as an environment variable (CACHESERVER_...) or in a file (--config); the flag
wins over the variable, the variable over the file.

exit codes: 0 done; 1 failed; 2 the command line or configuration is wrong; each command's --help says more
"""

_TITLES: Final = {
    "content": "what is served",
    "etcd": "etcd",
    "serving": "the API",
    "cache": "memory",
    "parsing": "parsing and its limits",
    "authoring": "what may be written",
    "logs": "logs",
}
_COMMANDS: Final[Mapping[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "serve": (
        "--catalog NAME=SOURCE ... [FLAGS]",
        "serve catalogs as a Kubernetes API, and keep them fresh",
        "Read catalogs into etcd, look at their sources again and again, and serve them until stopped.",
        tuple(SUBJECTS),
    ),
    "ingest": (
        "--catalog NAME=SOURCE ... [--fail-on-rejected] [FLAGS]",
        "read catalogs into etcd once, then exit",
        "Read every catalog once, write what changed into etcd, and say what that was.",
        ("content", "etcd", "parsing", "logs"),
    ),
    "validate": (
        "PATH [--as FORMAT] [--max-findings N] [FLAGS]",
        "say what is wrong with a catalog",
        "Parse a catalog as the server would and print every finding as FILE:LINE. Needs no etcd.",
        ("parsing", "logs"),
    ),
    "certs": (
        "DIRECTORY [FLAGS]",
        "make the certificates of an installation without cert-manager",
        "Make certificates for the API's Service and for etcd. Run again, it renews them and keeps their authorities.",
        ("logs",),
    ),
    "doctor": (
        "[FLAGS]",
        "say what is wrong with an installation, and what to do about it",
        "Examine certificates, rights, repositories, pushes and etcd, and change nothing. Exit code 1: one failed.",
        ("content", "etcd", "serving", "logs"),
    ),
    "version": (
        "[--etcd-binary PATH]",
        "print the version, and which etcd would be embedded",
        "Print the versions of the program, of Python, and of the etcd that `--etcd embedded` would start.",
        ("etcd", "logs"),
    ),
}
"""Command -> (usage, one line, description, subjects whose settings are its flags)."""


def parse(argv: Sequence[str]) -> Mapping[str, Any]:
    """`command`, a command's own arguments by name, and the settings that were given by their flag, as text.

    Raises SystemExit: 0 for --help and --version, 2 for what is not a command, flag or argument, told in one line.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        close = difflib.get_close_matches(argv[0], _COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_COMMANDS)}"
        _refuse(f"there is no command {argv[0]!r}; {hint}")
    top, commands = _parsers()
    found, unknown = top.parse_known_args(argv)
    if unknown:
        _refuse(_unknown(unknown[0], found.command, commands[found.command]))
    return vars(found)


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"cacheserver: error: {message}\n")
    raise SystemExit(USAGE)


def _unknown(word: str, name: str, command: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        return f"{name} takes no argument {word!r}; `cacheserver {name} --help` shows what it takes"
    flag = word.partition("=")[0]
    close = difflib.get_close_matches(flag, command._option_string_actions, n=1)
    hint = f"did you mean {close[0]}?" if close else f"`cacheserver {name} --help` lists all"
    return f"{name} has no flag {flag}; {hint}"


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line: argparse puts pages of usage above it."""

    def error(self, message: str) -> NoReturn:
        _refuse(f"{message}; `{self.prog} --help` shows what there is")


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of all, and that of each command."""
    top = _Parser(
        prog="cacheserver",
        description="A package cache for Kubernetes: catalogs of packages in; get, list and watch of them out.",
        epilog=_OVERVIEW,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cacheserver {cacheserver.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (usage, line, description, subjects) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            usage=f"cacheserver {name} {usage}",
            help=line,
            description=description,
            epilog=_EXAMPLES[name],
            formatter_class=_Help,
            allow_abbrev=False,
        )
        _OWN.get(name, _nothing)(command)
        command.add_argument(
            CONFIG_FLAG,
            dest=CONFIG_FLAG,
            default=argparse.SUPPRESS,
            metavar="FILE",
            help=f"settings from a YAML file [{CONFIG_ENV}]",
        )
        for subject in subjects:
            group = command.add_argument_group(_TITLES[subject])
            for setting in SETTINGS:
                if setting.subject is SUBJECTS[subject]:
                    _add_flag(group, setting)
    return top, commands.choices


def _nothing(_command: argparse.ArgumentParser) -> None:
    """A command has no arguments besides settings."""


def _of_validate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", metavar="PATH", help="a catalog's directory, one file of it, or any SOURCE of `serve`"
    )
    command.add_argument(
        "--as",
        dest="format",
        choices=[choice.value for choice in FormatChoice],
        default=FormatChoice.AUTO.value,
        help="what it is (default: Auto, its content decides)",
    )
    _shown(command)


def _of_ingest(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fail-on-rejected",
        action="store_true",
        help="exit with 1 also where a package is rejected or a file cannot be read, for pipelines (default: those are"
        " told, the others are served)",
    )
    _shown(command)


def _shown(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-findings",
        type=_count,
        default=SHOWN_FINDINGS,
        metavar="N",
        help=f"print so many findings of a catalog, errors first (default: {SHOWN_FINDINGS})",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _of_certs(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", metavar="DIRECTORY", help="where to write; - is stdout")
    command.add_argument(
        "--days", type=int, default=365, metavar="N", help="how long the certificates are good (default: 365)"
    )
    command.add_argument(
        "--service-namespace",
        default="cacheserver",
        metavar="NAME",
        help="namespace of the installation; it is part of the names (default: cacheserver)",
    )


_OWN: Final[Mapping[str, Callable[[argparse.ArgumentParser], None]]] = {
    "ingest": _of_ingest,
    "validate": _of_validate,
    "certs": _of_certs,
}
"""Command -> what adds its own arguments, those that are not settings."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; the rest uses the terminal up to 110 columns."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 110)
        super().__init__(prog, max_help_position=30, width=width)


def _add_flag(group: argparse._ArgumentGroup, setting: Setting) -> None:
    """The flag of one setting. Its value stays text: `config.load` parses flags, environment and file alike."""
    default = f"default: {setting.default}; " if setting.default else ""
    text = f"{setting.help} [{default}{setting.env}]".replace("%", "%%")
    if setting.kind is SWITCH:
        group.add_argument(
            setting.flag, dest=setting.flag, default=argparse.SUPPRESS, help=text, action=argparse.BooleanOptionalAction
        )
    else:
        action = "append" if setting.many else "store"
        group.add_argument(
            setting.flag,
            dest=setting.flag,
            default=argparse.SUPPRESS,
            help=text,
            action=action,
            metavar=setting.kind.metavar,
        )
