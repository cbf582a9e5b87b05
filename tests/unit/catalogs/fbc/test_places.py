"""Where a fault of a file is: at the line that is to be mended, in the document that has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pytest

from cacheserver.catalogs.fbc.scan import scan
from cacheserver.catalogs.fbc.wire import Part, Report
from cacheserver.catalogs.limits import ParseLimits

LIMITS = ParseLimits()
PACKAGES = [orjson.dumps({"schema": "olm.package", "name": f"p{n}"}) for n in range(4)]


def scanned(path: Path, content: bytes, known: frozenset[bytes] = frozenset()) -> Report:
    path.write_bytes(content)
    return scan(Part(path.name, 0, len(content)), path.parent, known, None, LIMITS)


def faults(report: Report) -> list[tuple[str, int, int]]:
    return [(found.reason, found.document, found.line) for found in report.findings]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a: 1\nname: "foo\npackage: bar\n', 2),
        ('a: 1\nname: "foo\npackage: "bar"\nx: 1\n', 2),
        ("a: 1\nname: 'foo\nb: 1\nc: 'x'\nd: e\n", 2),
        ('a: 1\nname: "foo\nlist:\n- "a"\n- b\n', 2),
        ('a: 1\n"name: foo\nb: "x"\n', 2),
        ("a: 1\nname\npackage: bar\n", 2),
        ('a: "one\n  two"\nb: [\n', 4),
        ('a: "one\n  two"\nb: "x" y\n', 3),
    ],
    ids=["to the end", "next quote", "single", "far", "key", "no colon", "closed", "another"],
)
def test_a_quote_that_is_not_closed_is_a_fault_where_it_begins(text: str, line: int, tmp_path: Path) -> None:
    assert faults(scanned(tmp_path / "c.yaml", text.encode())) == [("YAMLSyntax", 1, line)]


def test_a_bad_byte_in_one_line_of_json_costs_its_own_document_only(tmp_path: Path) -> None:
    bad = PACKAGES[2].replace(b"p2", b"p\xff")
    report = scanned(tmp_path / "c.json", b"\n" + b" ".join([PACKAGES[0], PACKAGES[1], bad, PACKAGES[3]]))
    assert faults(report) == [("InvalidUTF8", 3, 2)]
    assert [(seen.package, seen.document) for seen in report.seen] == [("p0", 1), ("p1", 2), ("p3", 4)]


def test_a_bad_document_among_others_on_its_line_is_told_with_its_number(tmp_path: Path) -> None:
    bad = b'{"schema": "olm.package", "name": 5}'
    report = scanned(tmp_path / "c.json", PACKAGES[0] + bad + PACKAGES[1])
    assert faults(report) == [("NotAString", 2, 1)]
    assert [seen.package for seen in report.seen] == ["p0", "p1"]


def test_a_bad_byte_is_told_with_its_line(tmp_path: Path) -> None:
    written = b'{\n "schema": "olm.package",\n "name": "p\xff"\n}\n'
    assert faults(scanned(tmp_path / "c.json", written)) == [("InvalidUTF8", 1, 3)]


def test_objects_that_begin_in_a_line_where_another_ends_have_their_own_lines(tmp_path: Path) -> None:
    written = b'{"schema":\n"olm.package", "name": "a"} {"schema":\n"olm.package",\n"name": 5} {"schema": 7}'
    assert faults(scanned(tmp_path / "c.json", written)) == [("NotAString", 2, 2), ("NotAString", 3, 4)]


def test_no_document_of_a_line_with_several_stands_for_all_of_them(tmp_path: Path) -> None:
    line = b"".join(PACKAGES)
    first = scanned(tmp_path / "c.json", line)
    known = frozenset(bytes.fromhex(seen.sha256) for seen in first.seen)
    assert hashlib.sha256(line).digest() not in known
    assert [seen.package for seen in scanned(tmp_path / "c.json", line, known).seen] == ["p0", "p1", "p2", "p3"]
