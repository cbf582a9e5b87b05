"""Which kinds a package of resources brings: those of the CustomResourceDefinitions among its files. Pure.

Refuses nothing: what is no definition that can be read provides nothing. Called where a tree is read (worker.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from cacheserver.catalogs.documents import goyaml, splitter
from cacheserver.catalogs.documents.document import DocumentError, Object, ShapeError, child, children, text
from cacheserver.catalogs.limits import ParseLimits

API = tuple[str, str, str]
"""(group, version, kind)"""

PARSED_BYTES: Final = 4 << 20
"""Of a package's definitions, schemas left out: YAML is read at 1 MB/s, and real ones have 10 KB."""
_KIND: Final = b"CustomResourceDefinition"
_SUFFIXES: Final = (".yaml", ".yml", ".json")
_DEFINITION: Final = re.compile(rb'(?m)^(?:kind: *["\']?)CustomResourceDefinition["\']?\s*(?:#.*)?$')
_DEEP: Final = re.compile(rb"(?m)^ {8,}.*\n?")
"""Of a definition as every generator indents it: schemas, nearly all of its bytes. Names and versions stand above."""


def provided(files: Iterable[tuple[str, bytes]], limits: ParseLimits) -> tuple[list[API], bool]:
    """What is provided, and whether that is all: not where definitions are larger than anybody's."""
    found: list[API] = []
    room = PARSED_BYTES
    for piece in _definitions(files, limits):
        shallow = _DEEP.sub(b"", piece)
        for raw in (shallow, piece) if len(shallow) < len(piece) else (piece,):
            room -= len(raw)
            if room < 0:
                return found, False
            apis = list(_apis(raw, limits))
            found += apis
            if apis:
                break
    return found, True


def _definitions(files: Iterable[tuple[str, bytes]], limits: ParseLimits) -> Iterator[bytes]:
    for path, content in files:
        if not path.endswith(_SUFFIXES) or _KIND not in content:
            continue
        if splitter.is_json(content):
            yield content
            continue
        for piece in splitter.yaml_pieces(content, 0, len(content), limits.document_bytes):
            if _DEFINITION.search(piece.raw):
                yield piece.raw


def _apis(raw: bytes, limits: ParseLimits) -> Iterator[API]:
    """Of one definition (k8s: CustomResourceDefinitionSpec); none of what is not one."""
    try:
        document = goyaml.load(raw, replace(limits, document_bytes=PARSED_BYTES)).value
        if not isinstance(document, dict) or document.get("kind") != _KIND.decode():
            return
        spec = child(document, "spec") or {}
        group, kind = text(spec, "group"), text(child(spec, "names") or {}, "kind")
        versions = [text(version, "name") for version in _served(spec)] or [text(spec, "version")]
    except (DocumentError, ShapeError, MemoryError):
        return
    yield from ((group, version, kind) for version in versions if group and kind and version)


def _served(spec: Object) -> Iterator[Object]:
    return (version for version in children(spec, "versions") if version.get("served", True) is not False)
