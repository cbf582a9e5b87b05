"""The verbs that read: search, versions, show, diff, needs."""

from __future__ import annotations

import base64
import difflib
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cacheserver.client.catalog import LATEST, Catalog, said_version
from cacheserver.client.connection import ClientError, Object
from cacheserver.client.output import Column, Output, age, counted, plain

_PACKAGES: Final[Sequence[Column]] = (
    ("PACKAGE", lambda one: one["spec"]["packageName"]),
    ("LATEST", lambda one: _latest(one)),  # noqa: PLW0108  it stands below
    ("REPOSITORY", lambda one: one["spec"]["repository"]),
    ("ABOUT", lambda one: one["status"].get("summary", "")),
)
_PACKAGES_WIDE: Final[Sequence[Column]] = (
    ("NAME", lambda one: f"{one['metadata']['namespace']}/{one['metadata']['name']}"),
    ("TITLE", lambda one: one["status"].get("displayName", "")),
    ("PROVIDER", lambda one: (one["status"].get("provider") or {}).get("name", "")),
    ("DEPRECATED", lambda one: (one["status"].get("deprecation") or {}).get("message", "")),
)
_VERSIONS: Final[Sequence[Column]] = (
    ("VERSION", said_version),
    ("LIFECYCLE", lambda one: one["spec"]["lifecycle"]),
    ("LATEST", lambda one: "*" if LATEST in (one["metadata"].get("labels") or {}) else ""),
    ("CHANNELS", lambda one: ",".join(_channels(one))),
    ("AGE", age),
)
_VERSIONS_WIDE: Final[Sequence[Column]] = (
    ("NAME", lambda one: one["metadata"]["name"]),
    ("DEPRECATED", lambda one: (one["status"].get("deprecation") or {}).get("message", "")),
    ("IMAGE-OR-COMMIT", lambda one: _origin(one)),  # noqa: PLW0108  it stands below
)


def search(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Packages by words, the best first; by a kind that they provide, or a channel. Exit code 1 where there is none."""
    there = replace(catalog, namespace="") if asked.all_namespaces else catalog
    terms = {"status.provides": asked.provides, "status.channels": asked.channel, "spec.repository": asked.repository}
    fields = ",".join(f"{name}={text}" for name, text in terms.items() if text)
    if not asked.words and not fields:
        raise ClientError("say what is looked for: words, --provides KIND.GROUP, --channel or --repository")
    words = " ".join(asked.words)
    found = there.search(words, fields=fields) if words else there.list("packages", fields=fields)
    output.objects(found, _PACKAGES, _PACKAGES_WIDE)
    return 0 if found else 1


def _latest(one: Object) -> str:
    latest = one["status"].get("latest") or {}
    return str(latest.get("version") or latest.get("revision", ""))


def versions(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """Every revision of a package, the newest first; of a channel those that are in it."""
    found = catalog.revisions(asked.package)
    if asked.channel:
        found = [one for one in found if asked.channel in [name.rstrip("*") for name in _channels(one)]]
    output.objects(found, _VERSIONS, _VERSIONS_WIDE)
    if output.form in ("table", "wide") and any(_channels(one) for one in found):
        output.say("a channel with * leads there")
    return 0


def show(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """A package, or one revision of it, for people; as JSON or YAML the object."""
    one = catalog.revision(asked.name) if "@" in asked.name else _either(catalog, asked.name)
    if output.form in ("json", "yaml", "name"):
        _one(output, one)
        return 0
    facts = _of_package(one) if one["kind"] == "Package" else _of_revision(one)
    width = max(len(name) for name, text in facts if text)
    for name, text in facts:
        if text:
            output.line(f"{name + ':':<{width + 2}}{plain(text)}")
    return 0


def _either(catalog: Catalog, name: str) -> Object:
    try:
        return catalog.package(name)
    except ClientError as unknown:
        try:
            return catalog.revision(name)
        except ClientError:
            raise unknown from None


def _one(output: Output, one: Object) -> None:
    if output.form == "name":
        output.objects([one], ())
    else:
        output.document(one)


def _of_package(one: Object) -> Sequence[tuple[str, str]]:
    spec, status = one["spec"], one["status"]
    provider = status.get("provider") or {}
    channels = [
        f"{each['name']} ({each.get('headVersion', '')})" + (" default" if _is_default(each, status) else "")
        for each in status.get("channels") or ()
    ]
    return (
        ("Name", one["metadata"]["name"]),
        ("Package", spec["packageName"]),
        ("Repository", spec["repository"]),
        ("Title", status.get("displayName", "")),
        ("About", status.get("summary", "")),
        ("Provider", " ".join(filter(None, (provider.get("name"), provider.get("url"))))),
        ("Keywords", ", ".join(status.get("keywords") or ())),
        ("Categories", ", ".join(status.get("categories") or ())),
        ("Latest", (status.get("latest") or {}).get("version") or (status.get("latest") or {}).get("revision", "")),
        ("Channels", ", ".join(channels)),
        ("Revisions", str(status.get("revisions", ""))),
        ("Deprecated", (status.get("deprecation") or {}).get("message", "")),
    )


def _is_default(channel: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    return bool(channel["name"] == status.get("defaultChannel"))


def _of_revision(one: Object) -> Sequence[tuple[str, str]]:
    spec, status = one["spec"], one["status"]
    content = status.get("content") or {}
    conditions = [f"{each['type']}={each['status']}" for each in status.get("conditions") or ()]
    return (
        ("Name", one["metadata"]["name"]),
        ("Package", spec["packageName"]),
        ("Repository", spec["repository"]),
        ("Version", said_version(one)),
        ("Lifecycle", spec["lifecycle"]),
        ("Channels", ", ".join(_channels(one))),
        (
            "Replaces",
            ", ".join(sorted({each["replaces"] for each in status.get("channels") or () if "replaces" in each})),
        ),
        ("Provides", ", ".join(_api(each) for each in status.get("providedAPIs") or ())),
        ("Needs", ", ".join(need for _, need in _needs(one))),
        ("Kubernetes", f">={status['minKubeVersion']}" if status.get("minKubeVersion") else ""),
        ("From", _origin(one)),
        ("Cloned from", _locked(status.get("upstreamLock"))),
        ("Conditions", ", ".join(conditions)),
        (
            "Content",
            f"{counted(content.get('files', 0), 'file')}, {content.get('size', 0)} bytes, {content.get('digest', '')}",
        ),
        ("Deprecated", (status.get("deprecation") or {}).get("message", "")),
    )


def needs(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """What a revision needs of others, and who gives it (docs/finding.md, Dependencies). Exit code 1 where something
    is missing."""
    one = catalog.revision(asked.revision)
    query = {"namespaces": "*" if asked.all_namespaces else asked.namespaces, "format": "json"}
    found = replace(catalog, namespace=one["metadata"]["namespace"]).get(
        "packagerevisions", one["metadata"]["name"], "dependencies", **query
    )
    status = found["status"]
    if output.form == "name":
        for name in dict.fromkeys(each["name"] for need in status["requirements"] for each in need["satisfiedBy"][:1]):
            output.line(f"packagerevision.cacheserver.dev/{plain(name)}")
    elif output.form in ("json", "yaml"):
        output.document(found)
    elif not status["requirements"]:
        output.say(f"{one['metadata']['name']} needs nothing of others")
    else:
        output.table(status["requirements"], _NEEDS, _NEEDS_WIDE)
    if status.get("notLookedAt"):
        output.say(f"and {status['notLookedAt']} more, which were not looked at")
    if status.get("truncated"):
        output.say(f"it needs more than its object holds ({', '.join(status['truncated'])}): that was not looked at")
    return 1 if status["missing"] else 0


def _needed(need: Mapping[str, Any]) -> str:
    if need["type"] == "package":
        return f"{need['package']} {need['versionRange']}"
    return _api(need) if need["type"] == "api" else need["message"] or need["constraint"]


def _best(need: Mapping[str, Any]) -> str:
    """The first, and how many more."""
    if not need["satisfiedBy"]:
        return str(need.get("reason", ""))
    more = f" and {need['total'] - 1} more" if need["total"] > 1 else ""
    return f"{need['satisfiedBy'][0]['name']}{more}"


_NEEDS: Final[Sequence[Column]] = (
    ("KIND", lambda need: need["type"]),
    ("NEEDS", _needed),
    ("MET", lambda need: need["satisfied"]),
    ("BY", _best),
)
_NEEDS_WIDE: Final[Sequence[Column]] = (
    ("OTHERS", lambda need: ",".join(each["name"] for each in need["satisfiedBy"][1:])),
)


def _needs(one: Object) -> Sequence[tuple[str, str]]:
    status = one["status"]
    found = [("api", _api(each)) for each in status.get("requiredAPIs") or ()]
    found += [
        ("package", f"{each['package']} {each.get('versionRange', '')}".strip())
        for each in status.get("dependencies") or ()
    ]
    return found


def diff(catalog: Catalog, asked: Namespace, output: Output) -> int:
    """The difference of two revisions' files as `diff -u` writes it; exit code 0 where there is none, else 1."""
    before, after = catalog.revision(asked.before), catalog.revision(asked.after)
    names = [one["metadata"]["name"] for one in (before, after)]
    old, new = (files_of(catalog, name) for name in names)
    differs = False
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) == new.get(path):
            continue
        differs = True
        for line in _difference(path, old.get(path), new.get(path), names):
            output.line(line)
    return 1 if differs else 0


def _difference(path: str, old: bytes | None, new: bytes | None, names: Sequence[str]) -> Iterator[str]:
    sides = [
        f"{name}/{plain(path)}" if side is not None else "/dev/null"
        for name, side in zip(names, (old, new), strict=True)
    ]
    try:
        before, after = ((side or b"").decode().splitlines() for side in (old, new))
    except UnicodeDecodeError:
        yield f"Binary files {sides[0]} and {sides[1]} differ"
        return
    for line in difflib.unified_diff(before, after, sides[0], sides[1], lineterm=""):
        yield line if line.isprintable() else line[0] + line[1:].translate(_KEPT)


class _Kept(dict[int, str]):
    """Tabs stay; other characters that a terminal might obey are shown as escapes."""

    def __missing__(self, code: int) -> str:
        one = chr(code)
        return one if one == "\t" or one.isprintable() else one.encode("unicode_escape").decode()


_KEPT: Final = _Kept()


def files_of(catalog: Catalog, name: str) -> dict[str, bytes]:
    """Path to content of a revision's files."""
    spec = catalog.get("packagerevisionresources", name)["spec"]
    found = {path: text.encode() for path, text in (spec.get("resources") or {}).items()}
    return found | {path: base64.b64decode(text) for path, text in (spec.get("binaryResources") or {}).items()}


def _channels(one: Object) -> Sequence[str]:
    """Channels that a revision is in; a star marks those that lead to it."""
    return [each["name"] + ("*" if each.get("head") else "") for each in one["status"].get("channels") or ()]


def _api(api: Mapping[str, str]) -> str:
    return ".".join(filter(None, (api.get("kind"), api.get("version"), api.get("group"))))


def _origin(one: Object) -> str:
    return one["status"].get("image") or _locked(one["status"].get("selfLock"))


def _locked(lock: Mapping[str, Any] | None) -> str:
    git = (lock or {}).get("git") or {}
    return f"{git.get('repo', '')}/{git.get('directory', '')}@{git.get('ref') or git.get('commit', '')}" if git else ""
