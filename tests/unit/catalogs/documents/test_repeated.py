"""A document that is read in pieces, of which some are remembered, is what it would be if it were read whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from unittest import mock

import orjson
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.documents.repeated import Blocks
from cacheserver.catalogs.limits import ParseLimits
from tests.support.fuzz import FUZZ

LIMITS = ParseLimits(depth=8, containers=40, alias_bytes=100)

INDENTS = st.sampled_from(
    ["", "", "", "  ", "  ", "    ", "      ", " ", "   ", "\t", "\r", "\x85", "\u2028", "\ufeff"]
)
BEGINS = st.sampled_from(
    [
        *("", "", "- ", "- ", "- - ", "-\n", "? ", ": ", "-\t", "#", "|", "&x ", "*x", "!!map ", "<<: ", "%TAG ! x\n"),
        *("---\n", "...\n", "--- ", "... ", "[", "]", "{", "}", '"', "'", ", "),
    ]
)
KEYS = st.sampled_from(
    [
        "a:",
        "b:",
        "c:",
        "d.e/f:",
        "yes:",
        "null:",
        "1:",
        '"a":',
        "'b':",
        "a",
        "a b:",
        "a:b",
        "k:\r",
        "<<:",
        "",
        "x" * 130 + ":",
    ]
)
VALUES = st.sampled_from(
    [
        *(
            "",
            "",
            "",
            " x",
            " x y",
            " 1e3",
            " on",
            " ~",
            " |",
            " |-",
            " |+",
            " >",
            " |2",
            " |1-",
            " >9",
            " [",
            " ]",
            " [a, b]",
        ),
        *(
            " {",
            " }",
            " {a: b}",
            " {}",
            ' "',
            " '",
            ' "q"',
            " 'q'",
            " # c",
            " x # c",
            " &x",
            " &x y",
            " *x",
            " !!str 1",
        ),
        *(
            " !t",
            " - x",
            " ? x",
            " a: b",
            "\t",
            " x\r",
            " x\x85y",
            " x:",
            " '",
            " \\",
            " @",
            " `",
            " %",
            " ---",
            " ...",
        ),
    ]
)
LINES = st.tuples(INDENTS, BEGINS, KEYS, VALUES, st.sampled_from(["\n", "\n", "\n", "\n\n", "\n \n", "\r\n", ""])).map(
    "".join
)
VALID = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d.e/f", "yes", "k-l", "1", "m n"]),
    st.recursive(
        st.sampled_from(
            ["x", "x y " * 30, "l\nm\n", "l\n\n", "\n l\nm", "'", '"', "# c", "on", "", "- a", "a: b", 1e3, True, None]
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c", "on"]), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    min_size=1,
    max_size=4,
).map(lambda value: yaml.dump(value, default_flow_style=False, sort_keys=False))
MARRED = st.tuples(VALID, st.integers(0, 12), LINES).map(
    lambda drawn: "".join((*(lines := drawn[0].splitlines(keepends=True))[: drawn[1]], drawn[2], *lines[drawn[1] :]))
)
DOCUMENTS = st.one_of(VALID, MARRED, st.lists(LINES, max_size=14).map("".join))


def read(raw: bytes) -> object:
    """Everything that is told of it, as it is written."""
    return told(lambda: goyaml.load(raw, LIMITS))


def told(load: object) -> object:
    assert callable(load)
    try:
        loaded = load()
    except DocumentError as exc:
        return exc.reason, str(exc), exc.line
    value = None if isinstance(loaded.value, goyaml.Nothing) else orjson.dumps(loaded.value)
    return type(loaded.value), value, loaded.duplicates


def pieces() -> Blocks:
    """Cuts wherever it may."""
    return Blocks(LIMITS, smallest=1, piece_bytes=1)


@FUZZ
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), st.integers(0, 40), st.text(max_size=3))
@example(["a:\n- x\n- y\nb:\n  c: |+\n    t\n\n\nd: e\n"] * 2, 0, "")
@example(["a: &x y\nb: *x\n", "b: *x\n"], 0, "")
@example(['a: "\nb: c"\n'], 0, "")
@example(["a: b\n...\nc: d\n"], 0, "")
@example(["a: [\nb\n]\nc: {\nd: e\n}\n"], 0, "")
@example(["a:\n  b: c\n d: e\n"], 0, "")
@example(["a:\n- b\n'c': d\n"], 0, "")
@example(["a:\n  - b: c\n   d: e\n"], 0, "")
@example(
    ["a:\n  b:\n    c:\n      d:\n        e:\n          f:\n            g:\n              h:\n                i: j\n"],
    0,
    "",
)
@example(["a: b\n<<: {c: d}\nc: e\n"], 0, "")
@example(["yes:\n  a: b\n'true': c\n"], 0, "")
def test_a_document_in_pieces_is_the_document_whole(written: list[str], at: int, put: str) -> None:
    blocks = pieces()
    for document in (*written, *(each[:at] + put + each[at:] for each in written)):
        raw = document.encode(errors="surrogatepass")
        assert told(lambda raw=raw: blocks.load(raw)) == read(raw)


@pytest.fixture
def asked() -> Iterator[list[bytes]]:
    """What libyaml was asked about."""
    seen: list[bytes] = []
    load, load_piece = goyaml.load, goyaml.load_piece

    def whole(raw: bytes, limits: ParseLimits) -> goyaml.Loaded:
        seen.append(raw)
        return load(raw, limits)

    def piece(raw: bytes, limits: ParseLimits, depth: int) -> object:
        seen.append(raw)
        return load_piece(raw, limits, depth)

    with mock.patch.object(goyaml, "load", whole), mock.patch.object(goyaml, "load_piece", piece):
        yield seen


def version(number: int, text: str = "word " * 200) -> bytes:
    """Of 8 kB, which differ in some bytes."""
    described = "".join(f"    - name: n{at}\n      said: {text}\n" for at in range(8))
    return (
        f"name: p.v{number}\nproperties:\n- type: olm.csv.metadata\n  value:\n    keywords:\n    - one\n"
        f"    version: {number}.0.0\n    owned:\n{described}schema: olm.bundle\n"
    ).encode()


def test_what_versions_have_in_common_is_read_once(asked: list[bytes]) -> None:
    blocks = Blocks(ParseLimits())
    first, second = (blocks.load(version(number)).value for number in (1, 2))
    assert sum(len(raw) for raw in asked) < 1.1 * len(version(1))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["name"], second["name"]) == ("p.v1", "p.v2")
    assert [each["value"]["version"] for each in second["properties"]] == ["2.0.0"]  # type: ignore[index,union-attr,call-overload]


def test_a_document_of_tiny_pieces_is_read_whole_at_little_more_cost(asked: list[bytes]) -> None:
    raw = b"".join(b"k%d:\n" % at for at in range(20_000))
    Blocks(ParseLimits()).load(raw)
    assert asked[-1] == raw
    assert len(asked) < len(raw) / 200


def test_what_is_remembered_is_bounded() -> None:
    blocks = Blocks(ParseLimits())
    tracemalloc.start()
    try:
        for number in range(8):
            blocks.load(version(number, text=f"{number} " * 50_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 11 << 20, "8 documents of 0.8 MB, as bytes and as text"
