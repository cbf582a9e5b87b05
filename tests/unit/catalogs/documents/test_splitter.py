"""Files fall into the documents that their author wrote, however they are cut into parts."""

from __future__ import annotations

from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs.documents.splitter import is_json, json_pieces, mapped, objects, yaml_pieces

LIMIT = 1 << 20

bodies = st.text(alphabet="ab:- \n#-", max_size=40).filter(lambda body: "\n---" not in f"\n{body}" and "--" not in body)
documents = st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(0, 9), min_size=1, max_size=3)


def test_separators_may_carry_comments_only() -> None:
    pieces = list(yaml_pieces(b"a\n--- # x\nb\n---\r\nc\n--- d\ne\n----\nf\n", 0, 99, LIMIT))
    assert [piece.raw for piece in pieces] == [b"a\n", b"b\n", b"c\n", b"", b""]
    assert [piece.error.reason if piece.error else "" for piece in pieces] == ["", "", "", *["DocumentSeparator"] * 2]
    assert [piece.line for piece in pieces] == [1, 3, 5, 6, 8]


@given(st.lists(bodies, min_size=1, max_size=6), st.integers(1, 30))
def test_parts_of_a_yaml_file_hold_each_document_once(written: list[str], size: int) -> None:
    file = "".join(f"---\n{body}\n" for body in written).encode()
    whole = list(yaml_pieces(file, 0, len(file), LIMIT))
    parts = [list(yaml_pieces(file, at, at + size, LIMIT)) for at in range(0, len(file), size)]
    assert [piece.raw for part in parts for piece in part] == [piece.raw for piece in whole]
    assert [piece.raw for piece in whole] == [f"{body}\n".encode() for body in written]
    lines, found = 0, []
    for part in parts:
        found += [piece.line + lines for piece in part]
        lines += part[-1].next_line - 1 if part else 0
    assert found == [piece.line for piece in whole]


@given(st.lists(documents, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n\n", "\n  "]), st.booleans())
def test_concatenated_json_falls_apart_at_the_objects(
    written: list[dict[str, object]], between: str, pretty: bool
) -> None:
    option = orjson.OPT_INDENT_2 if pretty else 0
    file = between.encode().join(orjson.dumps(document, option=option) for document in written)
    pieces = list(json_pieces(file, LIMIT))
    assert [orjson.loads(piece.raw) for piece in pieces] == written
    assert [piece.line for piece in pieces] == [1 + file[: piece.at].count(b"\n") for piece in pieces]


@given(st.lists(documents, min_size=1, max_size=5), st.sampled_from(["", " ", "\t"]))
def test_objects_on_one_line_are_told_apart(written: list[dict[str, object]], between: str) -> None:
    line = between.encode().join(orjson.dumps(document) for document in written)
    assert [orjson.loads(one) for one in objects(line)] == written


def test_the_first_character_says_whether_it_is_json() -> None:
    assert is_json(b' \n\t{"a": 1}')
    assert is_json(b"\xef\xbb\xbf{")
    assert not is_json(b"# {")
    assert not is_json(b"")


def test_a_document_over_the_limit_is_named_and_the_next_one_read() -> None:
    pieces = list(yaml_pieces(b"a: " + b"x" * 50 + b"\n---\nb: 1\n", 0, 99, 20))
    assert [piece.error.reason if piece.error else "" for piece in pieces] == ["DocumentTooLarge", ""]


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with mapped(tmp_path / "x") as view:
        assert list(yaml_pieces(view, 0, 0, LIMIT)) == []
        assert list(json_pieces(view, LIMIT)) == []
