"""YAML means here what it means to Go; hostile YAML is refused by name, at little cost."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs import ParseLimits
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.documents.gorules import from_json, number
from cacheserver.catalogs.documents.goyaml import Loaded, Nothing, load

LIMITS = ParseLimits()


def json_of(text: str) -> str:
    """As JSON, as it would be served."""
    value = load(text.encode(), LIMITS).value
    assert not isinstance(value, Nothing)
    return orjson.dumps(value).decode()


def refused(text: str | bytes, limits: ParseLimits = LIMITS) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        load(text.encode() if isinstance(text, str) else text, limits)
    return caught.value


# go-yaml v2 resolve.go and encoding/json; the shared research's tables 2.4 and 3.3 say the same.
GOLDEN = {
    "2024-01-02": '"2024-01-02"',
    "2025-06-24T14:07:09": '"2025-06-24T14:07:09"',
    "yes": "true", "on": "true", "y": "true", "Y": "true", "TRUE": "true", "True": "true",
    "no": "false", "off": "false", "n": "false", "N": "false", "NO": "false", "False": "false",
    "tRUE": '"tRUE"', "yess": '"yess"', "nothing": '"nothing"', "~x": '"~x"',
    "12:30": '"12:30"', "1:00:00": '"1:00:00"', "22:22": '"22:22"',
    "1e3": "1000", "1.5e3": "1500", "1E+2": "100", "1e-7": "1e-7", "1e21": "1e+21", "1e20": "100000000000000000000",
    "0.000001": "0.000001", "1.0": "1", "1.50": "1.5", ".5": "0.5", "-.5": "-0.5", "5.": "5", "+1.5": "1.5",
    "014": "12", "0o14": "12", "0777": "511", "0x1F": "31", "-0x10": "-16", "0b11": "3", "-0b11": "-3",
    "08": "8", "1_000": "1000", "_1": '"_1"', "+1": "1", "-1": "-1", "0": "0", "-0": "0", "00": "0",
    "9007199254740993": "9007199254740992", "18446744073709551615": "18446744073709552000",
    "123456789012345678901234567890": "1.2345678901234568e+29",
    "1e999": '"1e999"', "0x": '"0x"', "+": '"+"', ".": '"."', "...x": '"...x"', "1.2.3": '"1.2.3"',
    "~": "null", "null": "null", "Null": "null", "NULL": "null", "nULL": '"nULL"', "": "null",
    "=": '"="', "<<": '"<<"', "v1.0": '"v1.0"', "1a": '"1a"', '"no"': '"no"', "'1'": '"1"', '""': '""',
    "!!str 5": '"5"', "!!int '5'": "5", "!!float 5": "5", "!!bool 'on'": "true", "!!null ''": "null",
    "!Ref x": '"x"', "!!binary aGk=": '"aGk="', "!!timestamp 2024-01-02": '"2024-01-02"', "! 5": "5",
}  # fmt: skip


@pytest.mark.parametrize("scalar", GOLDEN)
def test_a_scalar_is_what_go_makes_of_it(scalar: str) -> None:
    assert json_of(f"[{scalar}, x]" if scalar else "[~, x]") == f'[{GOLDEN[scalar]},"x"]'
    assert json_of(f"a: {scalar}\n") == f'{{"a":{GOLDEN[scalar]}}}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1: a", '{"1":"a"}'),
        ("on: a", '{"true":"a"}'),
        ("'on': a", '{"on":"a"}'),
        ("1.5: a", '{"1.5":"a"}'),
        ("0x10: a", '{"16":"a"}'),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2, d: 3}", '{"a":{"b":1},"c":{"b":2,"d":3}}'),
        ("a: &x {b: 1}\nc: {b: 2, <<: [*x, {e: 4}]}", '{"a":{"b":1},"c":{"b":2,"e":4}}'),
        ("a: &x [1]\nb: *x\nc: &x 2\nd: *x", '{"a":[1],"b":[1],"c":2,"d":2}'),
        ("\ufeffa: 1", '{"a":1}'),
        ("a: |\n  b\n  c\n", '{"a":"b\\nc\\n"}'),
        ("{a: b}", '{"a":"b"}'),
        ("a: 'ü€𝄞'", '{"a":"ü€𝄞"}'),
    ],
)
def test_keys_merges_and_aliases(text: str, expected: str) -> None:
    assert json_of(text) == expected


def test_of_duplicate_keys_the_last_wins_and_is_told() -> None:
    assert load(b"a: 1\nb: 2\na: 3\n", LIMITS) == Loaded({"a": 3, "b": 2}, [("a", 3)])


@pytest.mark.parametrize("text", ["", "# only words\n", "\n\n", "---\n# x\n"])
def test_a_document_without_content_is_nothing(text: str) -> None:
    assert isinstance(load(text.encode(), LIMITS).value, Nothing)


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("a: 1\nb: [", "YAMLSyntax", 3),
        ("a:\n\tb: 1", "YAMLSyntax", 2),
        ("a: 1\nb: *unknown", "YAMLSyntax", 2),
        ("a: &a [*a]", "YAMLSyntax", 1),
        ("a: 1\n...\nb: 2", "YAMLSyntax", 3),
        ("a: !!int x", "YAMLSyntax", 1),
        ("a: {<<: 1}", "YAMLSyntax", 1),
        ("a: .inf", "UnsupportedValue", 1),
        ("a: -.Inf", "UnsupportedValue", 1),
        ("a: .nan", "UnsupportedValue", 1),
        ("~: 1", "UnsupportedKey", 1),
        ("{[a]: 1}", "UnsupportedKey", 1),
    ],
)
def test_what_go_refuses_is_refused_with_its_line(text: str, reason: str, line: int) -> None:
    error = refused(text)
    assert (error.reason, error.line) == (reason, line)


def test_bytes_that_are_no_utf8_are_named_with_their_line() -> None:
    error = refused(b'a: 1\nb: "\xff"\n')
    assert (error.reason, error.line) == ("InvalidUTF8", 2)


def test_forty_thousand_brackets_are_too_deep() -> None:
    # PyYAML's C composer ends the process on this.
    assert refused("[" * 40_000).reason == "TooDeep"
    assert refused("{a: " * 40_000).reason == "TooDeep"
    assert refused("- " * 300 + "x").reason == "TooDeep"


def test_an_alias_bomb_is_refused_at_once() -> None:
    levels = "a: &a [" + "x, " * 9 + "x]\n"
    levels += "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    started = time.perf_counter()
    assert refused(levels).reason == "AliasExpansion"
    assert refused(f"a: &a {'x' * 200_000}\nb: [*a, *a, *a, *a, *a, *a]\n").reason == "AliasExpansion"
    assert time.perf_counter() - started < 1


def test_a_document_of_empty_lists_is_refused_before_memory_is() -> None:
    assert refused("[" + "[]," * 20 + "]", ParseLimits(containers=10)).reason == "TooManyNodes"
    with pytest.raises(DocumentError, match="more than 10"):
        from_json(b"[" + b"[]," * 20 + b"[]]", ParseLimits(containers=10))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_is_read_alike_by_both_readers(value: Any) -> None:
    written = orjson.dumps({"value": value})
    assert from_json(written, LIMITS) == {"value": value}


@given(json_values)
def test_what_pyyaml_writes_reads_back(value: Any) -> None:
    # Strings in quotes: plain ones mean different things to PyYAML and to Go (`y`, `1e3`), see GOLDEN.
    written = yaml.dump({"value": value}, Dumper=_Quoting)
    assert load(written.encode(), LIMITS).value == {"value": value}


class _Quoting(yaml.SafeDumper):
    pass


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives(value: float) -> None:
    written = orjson.dumps(from_json(orjson.dumps([value]), LIMITS))
    assert float(orjson.loads(written)[0]) == value
    assert b".0]" not in written


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_load_or_be_refused(raw: bytes) -> None:
    reason = "Loaded"
    try:
        load(raw, LIMITS)
    except DocumentError as error:
        reason = error.reason
    assert reason in {"Loaded", "YAMLSyntax", "InvalidUTF8", "UnsupportedKey", "UnsupportedValue"}


@given(st.floats(min_value=1e-6, max_value=1e21, exclude_max=True), st.sampled_from((1, -1)))
def test_numbers_between_have_all_their_digits_and_no_exponent(size: float, sign: int) -> None:
    expected = format(Decimal(repr(sign * size)), "f").removesuffix(".0")
    if 1e-3 <= size < 1e15:  # as Python writes them
        assert orjson.dumps(number(sign * size)).decode().removesuffix(".0") == expected
    else:
        assert orjson.dumps(number(sign * size)).decode() == expected
