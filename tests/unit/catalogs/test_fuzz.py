"""Nonsense into everything that reads bytes of strangers: findings and refusals, no crash, no unbounded memory.

Tar archives: tests/unit/sources/oci/test_layers.py. CACHESERVER_TEST_FUZZ makes it longer (CONTRIBUTING.md).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cacheserver.catalogs.documents import goyaml, splitter
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.fbc import worker as fbc
from cacheserver.catalogs.fbc.wire import Part, Report, Scan, decode_reports, encode_job
from cacheserver.catalogs.krm import kptfile
from cacheserver.catalogs.krm import worker as krm
from cacheserver.catalogs.krm.wire import Pack, Wanted, decode_packed
from cacheserver.catalogs.krm.wire import encode_job as encode_krm_job
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.sources.git import commits
from tests.support.fbc import bundle
from tests.support.fuzz import FUZZ, within
from tests.support.krm import kptfile as kptfile_text

pytestmark = pytest.mark.processes

LIMITS = ParseLimits(
    file_bytes=1 << 20, document_bytes=1 << 16, documents=200, depth=50, containers=5000, alias_bytes=1 << 16
)
MEMORY = 24 << 20
"""The caps above, in Python objects: a container takes some hundred bytes."""

# Pieces that mean something to YAML, to JSON, to the splitter or to a catalog: nonsense that gets past the first check.
TOKENS = st.sampled_from(
    [
        *("---", "--- ", "---\n", "...\n", "\n", " ", "  ", "\t", "- ", ": ", "? ", ", ", "#", "|", ">", "|-2", "\r\n"),
        *("{", "}", "[", "]", "{}", "[]", '"', "'", "\\", "\\u", "\\ud800", '{"a":1}', "}{"),
        *("}\n{", "[" * 60, "{a: " * 60),
        *("&a ", "*a", "&b [*a, *a, *a]", "<<: ", "<<: *a", "!!int ", "!!binary ", "!!float x"),
        *("!x ", "!<tag:x> ", "%YAML 1.2\n"),
        *("1e9999", "0x", "0o17", "12:30", "1_000", ".inf", "-", ".nan", "2001-01-01", "~", "y"),
        *("null", "0" * 400, "9" * 5000),
        *("\0", "\x85", "\u2028", "\ufeff", "\x7f", "é", "\U0001f4a5", "=", "@", "`"),
        *("schema", "olm.bundle", "olm.package", "olm.channel", "name", "package", "properties"),
        *("value", "type", "image"),
        *("schema: olm.bundle\n", "package: p\n", "name: p.v1\n", "entries: "),
        *("kind: Kptfile\n", "apiVersion: kpt.dev/v1\n"),
    ]
)  # fmt: skip
TEXTS = st.lists(st.one_of(TOKENS, st.text(max_size=8)), max_size=60).map(lambda parts: "".join(parts).encode())
BYTES = st.one_of(TEXTS, st.binary(max_size=300), st.tuples(TEXTS, st.binary(max_size=20), TEXTS).map(b"".join))

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(max_size=8), TOKENS), inner, max_size=4)
    ),
    max_leaves=20,
)


def scanned(content: bytes, *, known: bytes = b"") -> list[Report]:
    """The worker's reports of one file, by the way every file goes: whole, or cut in two parts."""
    with tempfile.TemporaryDirectory() as home:
        root, scratch = Path(home) / "root", Path(home) / "scratch"
        root.mkdir()
        scratch.mkdir()
        (root / "f.yaml").write_bytes(content)
        cut = len(content) // 2
        with splitter.mapped(root / "f.yaml") as view:
            whole = cut == 0 or splitter.is_json(view)
        parts = [Part("f.yaml", 0, len(content))] if whole else [
            Part("f.yaml", 0, cut), Part("f.yaml", cut, len(content))
        ]  # fmt: skip
        job = encode_job(Scan(str(root), str(scratch), "", parts, True))
        reports = decode_reports(fbc.answer(job, LIMITS))
        assert {path.name for path in Path(home).iterdir()} == {"root", "scratch"}
        assert [path.name for path in root.iterdir()] == ["f.yaml"]
        return reports


def judged(content: bytes) -> None:
    with within(MEMORY):
        reports = scanned(content)
    for report in reports:
        assert report.documents <= LIMITS.documents + 1
        assert len(report.findings) <= LIMITS.findings + 2
        assert all(finding.reason and finding.message for finding in report.findings)


@FUZZ
@given(BYTES)
def test_fuzz_files_of_a_catalog(content: bytes) -> None:
    judged(content)


@FUZZ
@given(st.lists(VALUES, max_size=5), st.sampled_from([b"\n", b"", b"\n---\n", b" "]))
def test_fuzz_json_streams(values: list[Any], between: bytes) -> None:
    judged(between.join(_json(value) for value in values))


@FUZZ
@given(st.sampled_from(["schema", "package", "name", "image", "properties", "relatedImages"]), VALUES, VALUES)
def test_fuzz_bundles_with_fields_of_any_shape(field: str, value: Any, inner: Any) -> None:
    document = bundle("app", "1.0.0")
    document[field] = value
    document["properties"] = [*document["properties"], inner] if isinstance(document["properties"], list) else inner
    judged(_json(document))
    for kind in ("olm.package", "olm.channel", "olm.deprecations"):
        judged(_json({"schema": kind, "name": "a", "package": "app", "entries": inner, field: value}))


@FUZZ
@given(BYTES)
def test_fuzz_yaml_documents(content: bytes) -> None:
    """A value that JSON can hold, or a refusal with a line that is there."""
    assume(b"\0" not in content)
    with within(MEMORY):
        try:
            loaded = goyaml.load(content, LIMITS)
        except DocumentError as refusal:
            _told(refusal, content)
            return
        if not isinstance(loaded.value, goyaml.Nothing):
            orjson.dumps(loaded.value)


def _told(refusal: DocumentError, content: bytes) -> None:
    """Lines as YAML counts them: it breaks them at characters that editors and JSON do not."""
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", content.decode(errors="replace"))
    assert refusal.reason
    assert 0 <= refusal.line <= len(lines) + 1


@FUZZ
@given(BYTES, st.integers(0, 400), st.integers(0, 400))
def test_fuzz_splitting_loses_nothing_and_ends(content: bytes, start: int, size: int) -> None:
    limit = 1 << 16
    pieces = list(splitter.yaml_pieces(content, 0, len(content), limit))
    assert [piece.at for piece in pieces] == sorted({piece.at for piece in pieces})
    parts = [
        piece.at
        for at in range(0, len(content), size + 1)
        for piece in splitter.yaml_pieces(content, at, min(at + size + 1, len(content)), limit)
    ]
    assert sorted(parts) == sorted(piece.at for piece in pieces)
    found = list(splitter.json_pieces(content, limit))
    assert sum(len(piece.raw) for piece in found) <= len(content)
    assert all(1 <= piece.line <= content.count(b"\n") + 1 for piece in found)


@pytest.mark.parametrize(
    "bomb",
    [
        b"a: &a [x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 122)),
        b"&a [" * 5000 + b"]" * 5000,
        b"{" * 60000,
        b"[[]," * 15000,
        b"- " * 30000,
        b"a: " * 20000,
        b"? " * 30000,
        b"&x " * 20000,
        b'{"a":' * 10000,
        b"--- #\n" * 10000,
        b"{}\n" * 20000,
        b"!!float " + b"9" * 60000,
        b"!" * 60000,
        b"%TAG ! " + b"x" * 60000 + b"\n---\n!a b",
        b"'" * 60000,
        b"|\n" + b" " * 60000,
        b"\xff\xfe" + b"a\0" * 20000,
    ],
    ids=lambda bomb: repr(bomb[:12]),
)
def test_bombs_are_told_in_bounded_memory(bomb: bytes) -> None:
    judged(bomb)


# --- packages --------------------------------------------------------------------------------------------------------


def packed(files: dict[str, bytes]) -> None:
    """Through the worker's entry for packages: an answer, whatever the files hold."""
    with tempfile.TemporaryDirectory() as home:
        root, scratch = Path(home) / "root", Path(home) / "scratch"
        root.mkdir()
        scratch.mkdir()
        names = []
        for at, (path, content) in enumerate(files.items()):
            (root / str(at)).write_bytes(content)
            names.append((path, str(at)))
        job = encode_krm_job(Pack(str(root), str(scratch), [Wanted("p", names, "")]))
        with within(MEMORY):
            (answer,) = decode_packed(krm.answer(job, LIMITS))
        assert bool(answer.refusal) != bool(answer.facts)


@FUZZ
@given(BYTES)
def test_fuzz_kptfiles(content: bytes) -> None:
    packed({"Kptfile": content})
    packed({"Kptfile": b"apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {name: x}\n" + content, "x": b"\xff"})


@FUZZ
@example("metadata", {"": "\x85", "\x85": None})
@given(
    st.sampled_from(["metadata", "info", "status", "upstream", "upstreamLock", "pipeline", "kind", "apiVersion"]),
    VALUES,
)
def test_fuzz_kptfiles_with_parts_of_any_shape(part: str, value: Any) -> None:
    document = orjson.loads(kptfile_text("pkg", info={"keywords": ["a"], "readinessGates": [{"conditionType": "x"}]}))
    document[part] = value
    packed({"Kptfile": _json(document)})
    nested = {
        **document,
        "upstream": {"git": {}},
        "upstreamLock": {"git": value},
        "status": {"conditions": [value, value]},
    }
    nested["metadata"] = {"name": value, "labels": value}
    content = _json(nested)
    try:
        kptfile.read(content, LIMITS)
    except DocumentError as refusal:
        _told(refusal, content)


# --- git -------------------------------------------------------------------------------------------------------------

LINES = st.lists(
    st.one_of(
        st.sampled_from([b"tree ", b"parent ", b"author ", b"committer ", b"kpt:", b"\n", b"\n\n",
        b" <a@b> ", b"1700000000 +0000"]),
        st.sampled_from([b"9" * 30, b"a" * 40, b"kpt:{}", b'kpt:{"package":"a","workspaceName":"w"}\n', b"<",
        b">", b"gpgsig "]),
        st.binary(max_size=20),
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


@FUZZ
@given(LINES)
def test_fuzz_commits(raw: bytes) -> None:
    found = commits.parse(raw)
    assert len(found.annotations) + len(found.bad) <= 64
    assert found.committed_s >= 0


@FUZZ
@given(st.binary(max_size=400), st.sampled_from([20, 32]))
def test_fuzz_trees_of_a_commits_search(raw: bytes, name_bytes: int) -> None:
    for mode, _ in commits._parse_tree(raw, name_bytes).values():
        assert mode >= 0


def _json(value: Any) -> bytes:
    """As JSON, and what JSON cannot say as text."""
    return orjson.dumps(_plain(value))


def _plain(value: Any) -> Any:
    match value:
        case bool() | None | str():
            return value.encode(errors="replace").decode() if isinstance(value, str) else value
        case int():
            return value if abs(value) < 1 << 63 else str(value)
        case dict():
            return {_plain(key): _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value
