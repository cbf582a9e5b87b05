"""The command line of `kubectl cacheserver`: verbs, flags, help by example, exit codes.

Exit codes: 0 done; 1 failed, also not found and forbidden; 2 not understood; 130 after ^C. `diff`: 0 equal, 1
different, above 1 failed, as `kubectl diff`.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Connection, Direct, Kubectl
from cacheserver.client.output import FORMS, Output, complain

FAILED: Final = 1
INTERRUPTED: Final = 130
Verb = Callable[[Catalog, Namespace, Output], int]

_KUBECTL_FLAGS: Final = (
    *("kubeconfig", "context", "cluster", "user", "as", "as-group", "as-uid", "token", "request-timeout"),
    *("certificate-authority", "client-certificate", "client-key", "tls-server-name"),
)
"""Of kubectl, with a value; handed on to it."""

_REVISION: Final = ("revision", "REVISION", "a revision: PACKAGE@VERSION, its object's name, or PACKAGE for the latest")


@dataclass(frozen=True, slots=True)
class _Option:
    """An option of one verb, as argparse takes it."""

    names: Sequence[str]
    help: str
    default: str = ""
    choices: Sequence[str] | None = None
    flag: bool = False
    many: bool = False
    required: bool = False
    dest: str | None = None


@dataclass(frozen=True, slots=True)
class _Spec:
    """A verb. run: MODULE:FUNCTION, imported when it is asked for. words: (name, shown as, help) of each argument."""

    run: str
    help: str
    words: Sequence[tuple[str, str, str]]
    examples: str
    options: Sequence[_Option] = ()


_WORKSPACE: Final = _Option(("--workspace", "-w"), "name of the draft's workspace (default: the time)")
_PART: Final = (
    _Option(("--channel",), "of this channel alone"),
    _Option(("--from",), "of this version and higher ones", dest="start"),
)
_NEW: Final = (("repository", "REPOSITORY", "where it is to be published"), ("package", "PACKAGE", "its path there"))

VERBS: Final[Mapping[str, _Spec]] = {
    "search": _Spec(
        "reading:search",
        "packages by words, by a kind that they provide, or by a channel; the best first",
        (("words", "[WORD]", "what is looked for"),),
        "search postgres backup\nsearch --provides ServiceMonitor.monitoring.coreos.com -A",
        (
            _Option(("--provides",), "a kind that they bring: KIND.GROUP, or KIND.VERSION.GROUP"),
            _Option(("--channel",), "a channel that they have"),
            _Option(("--repository",), "where they come from"),
            _Option(("--all-namespaces", "-A"), "of all namespaces", flag=True),
        ),
    ),
    "versions": _Spec(
        "reading:versions",
        "every revision of a package, the newest first",
        (("package", "PACKAGE", "its name, or its object's"),),
        "versions ledger-operator\nversions ledger-operator --channel stable -o wide",
        (_Option(("--channel",), "only those in this channel"),),
    ),
    "changes": _Spec(
        "changes:changes",
        "what is new: packages and revisions that came or went, heads of channels, deprecations",
        (("package", "[PACKAGE]", "only of this package, by its name in its repository"),),
        "changes --since monday\nchanges ledger-operator --watch\nchanges -A --type Deprecated -o wide",
        (
            _Option(("--since",), "2d, 36h, a day of the week, a date, or a time as RFC 3339"),
            _Option(("--watch", "-w"), "go on with what changes from now on", flag=True),
            _Option(("--repository",), "where it happened"),
            _Option(
                ("--type",), "what happened, as in spec.changes[].type: RevisionAdded, ChannelHeadMoved, Deprecated"
            ),
            _Option(("--all-namespaces", "-A"), "of all namespaces", flag=True),
        ),
    ),
    "show": _Spec(
        "reading:show",
        "a package or a revision, for people",
        (("name", "NAME", "a package, or PACKAGE@VERSION"),),
        "show ledger-operator\nshow ledger-operator@1.4.1",
    ),
    "diff": _Spec(
        "reading:diff",
        "the difference of two revisions' files; exit code 0 where there is none, 1 where there is",
        (("before", "BEFORE", "a revision"), ("after", "AFTER", "another one")),
        "diff sites/berlin@v1 sites/berlin@v2",
    ),
    "graph": _Spec(
        "upgrades:graph",
        "a package's channels, and what upgrades to what",
        (("package", "PACKAGE", "its name, or its object's"),),
        "graph ledger-operator\ngraph ledger-operator --format svg > ledger.svg",
        (_Option(("--format",), "text, or what draws a picture", "text", ("text", "svg", "mermaid", "dot")),),
    ),
    "upgrades": _Spec(
        "upgrades:upgrades",
        "how to get from one version to another, or where one may go; exit code 1 where there is no way",
        (
            ("package", "PACKAGE", "its name, or its object's"),
            ("before", "FROM", "what is installed: a version, or a bundle's name"),
            ("to", "[TO]", "where to (default: what OLM does by itself)"),
        ),
        "upgrades ledger-operator 1.2.0\nupgrades ledger-operator 1.2.0 1.4.1 --channel stable",
        (_Option(("--channel",), "by the edges of this channel alone"),),
    ),
    "needs": _Spec(
        "reading:needs",
        "what a revision needs, and who gives it; exit code 1 where something is missing",
        (_REVISION,),
        "needs lantern-operator\nneeds broom@0.2.0 --namespaces platform,shared",
        (
            _Option(("--namespaces",), "look in these too, with commas between"),
            _Option(("--all-namespaces", "-A"), "look in all namespaces", flag=True),
        ),
    ),
    "images": _Spec(
        "mirroring:images",
        "every image of the named revisions, each once: what a mirror has to have",
        (("revisions", "REVISION", f"{_REVISION[2]}; with an option below, packages"),),
        "images broom@0.2.0 candle | xargs -n1 skopeo inspect\nimages ledger-operator candle --all",
        (_Option(("--all",), "of all versions of these packages", flag=True), *_PART),
    ),
    "export": _Spec(
        "mirroring:export",
        "packages, or a part of them, as a valid catalog",
        (("packages", "PACKAGE", "its name, or its object's"),),
        "export ledger-operator --channel stable --from 1.4.0 > catalog.json\n"
        "export ledger-operator candle --directory ./mirror -o yaml",
        (*_PART, _Option(("--directory", "-d"), "write DIRECTORY/PACKAGE/catalog.json, or with -o yaml catalog.yaml")),
    ),
    "pull": _Spec(
        "files:pull",
        "write a revision's files into a directory",
        (_REVISION, ("directory", "[DIRECTORY]", "where to (default: the last part of the package's name)")),
        "pull edge.sites.berlin.first\npull sites/berlin@v3 ./berlin",
        (_Option(("--force",), "overwrite what was changed in the directory", flag=True),),
    ),
    "push": _Spec(
        "files:push",
        "save a directory as the files of the draft that it was pulled from",
        (("directory", "[DIRECTORY]", "what was pulled (default: the one you are in)"),),
        "push berlin",
        (_Option(("--force",), "also where somebody changed the draft since", flag=True),),
    ),
    "init": _Spec(
        "steps:init",
        "a draft of a new package",
        _NEW,
        "init edge sites/berlin --description 'The shop in Berlin'",
        (
            _WORKSPACE,
            _Option(("--description",), "what it is"),
            _Option(("--site",), "its home page"),
            _Option(("--keywords",), "a word to find it by; may be given again", many=True),
        ),
    ),
    "clone": _Spec(
        "steps:clone",
        "a draft that begins as a revision of another package, or as a package elsewhere in git",
        (("origin", "ORIGIN", "a published revision, or the URL of a git repository"), *_NEW),
        "clone site@v3 edge sites/berlin\n"
        "clone https://git.example/blueprints.git edge apps/web --ref v1.2.0 --directory apps/web",
        (
            _WORKSPACE,
            _Option(("--ref",), "of a URL: branch, tag or commit"),
            _Option(("--directory",), "of a URL: the package's directory"),
            _Option(("--secret",), "of a URL: name of the Secret with credentials, in a cluster"),
        ),
    ),
    "copy": _Spec(
        "steps:copy",
        "a draft that begins as an earlier revision of its own package",
        (("origin", "REVISION", _REVISION[2]),),
        "copy sites/berlin@v3",
        (_WORKSPACE,),
    ),
    "upgrade": _Spec(
        "steps:upgrade",
        "a draft of a cloned package that takes a newer revision of what it was cloned from",
        (("package", "PACKAGE", "the clone"), ("to", "REVISION", "the newer revision of its origin")),
        "upgrade sites/berlin site@v4",
        (
            _WORKSPACE,
            _Option(
                ("--strategy",),
                "what becomes of changes in the clone",
                "fast-forward",
                ("fast-forward", "force-delete-replace"),
            ),
        ),
    ),
    "propose": _Spec(
        "steps:propose",
        "have a draft approved by somebody",
        (_REVISION,),
        "propose edge.sites.berlin.first\npropose edge.sites.berlin.first --version 1.2.0",
        (_Option(("--version",), "what it is to be called, where the repository has semantic versions"),),
    ),
    "approve": _Spec(
        "steps:approve",
        "publish what is proposed; delete what is proposed for deletion",
        (_REVISION,),
        "approve edge.sites.berlin.first",
        (_Option(("--version",), "what it is called, where the repository has semantic versions"),),
    ),
    "reject": _Spec(
        "steps:reject",
        "make a draft of what is proposed; keep what is proposed for deletion",
        (_REVISION,),
        "reject edge.sites.berlin.first",
    ),
    "rebase": _Spec(
        "steps:rebase",
        "bring a draft onto the newest published revision of its package",
        (_REVISION,),
        "rebase edge.sites.berlin.second",
    ),
    "delete": _Spec(
        "steps:delete",
        "delete a draft; propose a published revision for deletion",
        (_REVISION,),
        "delete edge.sites.berlin.first",
    ),
    "sync": _Spec(
        "steps:sync",
        "have a repository's source looked at now",
        (("repository", "REPOSITORY", "its name"),),
        "sync edge",
    ),
    "ui": _Spec(
        "ui:ui",
        "open the page in a browser, with your rights",
        (),
        "ui\nui --write --port 8080 --no-browser",
        (
            _Option(("--write",), "let its buttons change things", flag=True),
            _Option(("--port",), "on this machine (default: any)"),
            _Option(("--no-browser",), "only print the address", flag=True),
        ),
    ),
    "completion": _Spec(
        "completion:script",
        "print what makes a shell complete `kubectl-cacheserver`",
        (("shell", "SHELL", "bash, zsh or fish"),),
        "completion bash > ~/.local/share/bash-completion/completions/kubectl-cacheserver",
    ),
}
_HELP: Final = """\
Asks a cacheserver for packages, and makes, changes and publishes them. As a plugin of kubectl it uses your context,
namespace and credentials; with --server it asks a server on this machine.

Revisions are named PACKAGE@VERSION (broom@0.2.0, sites/berlin@v3), by their object's name, or by PACKAGE alone, which
means its latest one.
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Runs one verb; returns the exit code. Prints errors itself.

    environ: KUBECTL_PATH is where kubectl is, as it tells its plugins; NO_COLOR: no colours (no-color.org).
    """
    said = os.environ if environ is None else environ
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        asked = parser().parse_args(arguments)
    except SystemExit as exc:
        return int(exc.code or 0)
    failed = FAILED if asked.verb != "diff" else FAILED + 1
    try:
        code = _run(asked, said.get("KUBECTL_PATH", ""))
        sys.stdout.flush()
    except ClientError as exc:
        complain(str(exc), colour=not said.get("NO_COLOR"))
        return failed
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        return failed
    except OSError as exc:
        complain(str(exc), colour=not said.get("NO_COLOR"))
        return failed
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(asked: Namespace, kubectl: str) -> int:
    connection = connect(asked, kubectl)
    module, _, name = VERBS[asked.verb].run.partition(":")
    verb: Verb = getattr(__import__(f"cacheserver.client.{module}", fromlist=[name]), name)
    if asked.verb == "completion":
        return verb(Catalog(connection, ""), asked, Output())
    return verb(Catalog(connection, asked.namespace or connection.namespace), asked, Output(asked.output, asked.quiet))


def connect(asked: Namespace, kubectl: str = "") -> Connection:
    """The server that the flags name. kubectl: where it is. Raises: ClientError."""
    if asked.server:
        return Direct(asked.server, token=asked.token, authority=asked.certificate_authority)
    flags = [f"--{name}={text}" for name in _KUBECTL_FLAGS if (text := getattr(asked, name.replace("-", "_")))]
    flags += ["--insecure-skip-tls-verify"] if asked.insecure_skip_tls_verify else []
    return Kubectl(flags, kubectl or "kubectl")


def parser() -> ArgumentParser:
    """Of the whole command line. Flags that all verbs have may stand before the verb and behind it."""
    plugin = "kubectl cacheserver"
    made = ArgumentParser(plugin, description=_HELP, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    _add_common(made, default="")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for name, spec in VERBS.items():
        examples = "\n".join(f"  {plugin} {line}" for line in spec.examples.splitlines())
        one = verbs.add_parser(
            name,
            help=spec.help,
            description=f"{spec.help[0].upper()}{spec.help[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for word, shown, told in spec.words:
            _add_word(one, word, shown, told)
        for option in spec.options:
            _add_option(one, option)
        _add_common(one, default=SUPPRESS)
    return made


def common() -> ArgumentParser:
    """Of the flags alone that all verbs have; takes any other words as well, when it is asked for known ones."""
    made = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _add_common(made, default="")
    return made


def _add_word(one: ArgumentParser, word: str, shown: str, told: str) -> None:
    if word == "words":
        one.add_argument(word, metavar="WORD", help=told, nargs="*")
    elif word in ("revisions", "packages"):
        one.add_argument(word, metavar=shown, help=told, nargs="+")
    elif shown.startswith("["):
        one.add_argument(word, metavar=shown.strip("[]"), help=told, nargs="?", default="")
    elif word == "shell":
        one.add_argument(word, metavar=shown, help=told, choices=("bash", "zsh", "fish"))
    else:
        one.add_argument(word, metavar=shown, help=told)


def _add_option(one: ArgumentParser, option: _Option) -> None:
    if option.flag:
        one.add_argument(*option.names, help=option.help, action="store_true")
    elif option.many:
        one.add_argument(*option.names, help=option.help, action="append", default=[], metavar="WORD")
    else:
        one.add_argument(
            *option.names,
            help=option.help,
            default=option.default,
            choices=option.choices,
            required=option.required,
            **({"dest": option.dest} if option.dest else {}),
        )


def _add_common(one: ArgumentParser, *, default: str) -> None:
    """default: SUPPRESS behind the verb, so that what stood before it stays."""
    flags = one.add_argument_group("where, as whom, and how it is printed")
    flags.add_argument("-n", "--namespace", default=default, help="the namespace (default: your context's)")
    flags.add_argument("-o", "--output", default=default or "table", choices=FORMS, help="how it is printed")
    flags.add_argument(
        "-q", "--quiet", action="store_true", default=default or False, help="no word on stderr but errors"
    )
    flags.add_argument("--server", default=default, metavar="URL", help="a server's own address, without kubectl")
    hidden = one.add_argument_group("handed on to kubectl: " + ", ".join(f"--{name}" for name in _KUBECTL_FLAGS))
    for name in _KUBECTL_FLAGS:
        hidden.add_argument(f"--{name}", default=default, help=SUPPRESS)
    hidden.add_argument("--insecure-skip-tls-verify", action="store_true", default=default or False, help=SUPPRESS)


if __name__ == "__main__":
    sys.exit(main())
