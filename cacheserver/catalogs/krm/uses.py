"""Which kinds a package of resources uses that it does not bring itself. Pure.

Read by the lines that say so, not by parsing: `apiVersion` and `kind` of each document of each file stand at its
margin, as every tool writes them. What is written otherwise is not found. Called where a tree is read (worker.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import orjson

from cacheserver.catalogs.documents import splitter
from cacheserver.catalogs.krm.crds import API
from cacheserver.catalogs.limits import MIB

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_LINE: Final = re.compile(
    rb"""^(?:
      (?P<break>---)(?=[ \t\r\n]|\Z)
    | (?P<name>apiVersion|kind)[ \t]*:[ \t]+["']?(?P<value>[A-Za-z0-9./-]{1,320})["']?[ \t\r]*(?:\#.*)?$
    | [ ]+(?P<local>["']?config\.kubernetes\.io/local-config)["']?[ \t]*:(?![ \t]*["']?false)
    )""",
    re.MULTILINE | re.VERBOSE,
)
_API: Final = re.compile(r"([a-z0-9.-]{1,253})/(v[0-9][a-z0-9]{0,62})\Z")
_KIND: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}\Z")
_JSON_BYTES: Final = 1 * MIB
"""Of a file of JSON that is read."""

_TOOLS: Final = ("kpt.dev", "fn.kpt.dev", "config.kubernetes.io", "kustomize.config.k8s.io")
"""Groups that tools read, and no cluster serves."""
_OWN: Final = frozenset(
    f"{name}.k8s.io"
    for name in [
        "admissionregistration",
        "apiextensions",
        "apiregistration",
        "authentication",
        "authorization",
        "certificates",
        "coordination",
        "discovery",
        "events",
        "flowcontrol.apiserver",
        "internal.apiserver",
        "networking",
        "node",
        "rbac.authorization",
        "resource",
        "scheduling",
        "storage",
        "storagemigration",
    ]
)
"""Of Kubernetes itself, besides those without a dot (k8s.io/api has a folder for each)."""


def required(files: Iterable[tuple[str, bytes]], provided: frozenset[API]) -> Iterator[API]:
    """Kinds of resources among the files, once each, in order of the files; less those in `provided`, Kubernetes' own,
    and what is for tools alone (kpt: the annotation config.kubernetes.io/local-config)."""
    seen = set(provided)
    for path, content in files:
        if not path.endswith(_SUFFIXES) or b"apiVersion" not in content:
            continue
        for version, kind in _resources(content):
            found = _API.match(version)
            if found is None or not _KIND.match(kind):
                continue
            group = found[1]
            if "." not in group or group in _OWN or group in _TOOLS:
                continue
            api = (group, found[2], kind)
            if api not in seen:
                seen.add(api)
                yield api


def _resources(content: bytes) -> Iterator[tuple[str, str]]:
    """(apiVersion, kind) of each."""
    if splitter.is_json(content):
        yield from _of_json(content)
        return
    said: dict[bytes, str] = {}
    local = False
    for line in _LINE.finditer(content):
        if line["break"]:
            if not local:
                yield said.get(b"apiVersion", ""), said.get(b"kind", "")
            said, local = {}, False
        elif line["local"]:
            local = True
        else:
            said.setdefault(line["name"], line["value"].decode())
    if not local:
        yield said.get(b"apiVersion", ""), said.get(b"kind", "")


def _of_json(content: bytes) -> Iterator[tuple[str, str]]:
    if len(content) > _JSON_BYTES:
        return
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return
    if isinstance(document, dict):
        yield str(document.get("apiVersion")), str(document.get("kind"))
