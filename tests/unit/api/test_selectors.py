"""The selector grammar, case by case, with the messages of k8s.io/apimachinery/pkg/{labels,fields}."""

from __future__ import annotations

import pytest

from cacheserver.api.selectors import EVERYTHING, parse_selection
from cacheserver.api.status import StatusError

SELECTABLE = ("metadata.name", "metadata.namespace", "spec.packageName")


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("a=1", {"a": "1"}, True),
        ("a==1", {"a": "2"}, False),
        ("a!=1", {}, True),
        ("a != 1 , b", {"a": "2", "b": ""}, True),
        ("a in (1, 2)", {"a": "2"}, True),
        ("a in (1,2)", {}, False),
        ("a notin (1)", {}, True),
        ("a notin (1)", {"a": "1"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("! a", {}, True),
        ("a=", {"a": ""}, True),
        ("a=", {}, False),
        ("a in (,x)", {"a": ""}, True),
        ("a in (x,)", {"a": ""}, True),
        ("a>1", {"a": "2"}, True),
        ("a<1", {"a": "2"}, False),
        ("a>1", {"a": "two"}, False),
        ("a>1", {}, False),
        ("in in (in,notin)", {"in": "notin"}, True),
        ("x.io/a-b=v_1.2", {"x.io/a-b": "v_1.2"}, True),
        ("a=1,a=2", {"a": "1"}, False),
        ("a,", {"a": "1"}, None),
        ("", {}, True),
    ],
)
def test_label_selectors_match_as_kubernetes_does(selector: str, labels: dict[str, str], matches: bool | None) -> None:
    if matches is None:
        with pytest.raises(StatusError, match="expected: identifier after ','"):
            parse_selection(selector, "", SELECTABLE)
    else:
        assert parse_selection(selector, "", SELECTABLE).matches(labels, {}) is matches


def test_the_same_selectors_are_read_once() -> None:
    first = parse_selection("same=1", "metadata.name=x", SELECTABLE)
    assert parse_selection("same=1", "metadata.name=x", SELECTABLE) is first
    assert parse_selection("same=2", "metadata.name=x", SELECTABLE) is not first
    with pytest.raises(StatusError):
        parse_selection("same=1", "metadata.name=x", ("metadata.namespace",))
    assert first.held == first.size


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("a===b", "unable to parse requirement: found '=', expected: identifier"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (b,=", "unable to parse requirement: found '=', expected: ',', or identifier"),
        ("a in ()", "for 'in', 'notin' operators, values set can't be empty"),
        ("a>x", "for 'Gt', 'Lt' operators, the value must be an integer"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a!", "unable to parse requirement: found '!', expected: in, notin"),
        ("-a=b", 'unable to parse requirement: <nil>: Invalid value: "-a": name part must consist of alphanumeric'),
        ("a/b/c=d", 'Invalid value: "a/b/c": a qualified name must consist of'),
        ("/a=b", "prefix part must be non-empty"),
        ("A.io/b=c", "prefix part a lowercase RFC 1123 subdomain must consist of"),
        ("x.io/=c", "name part must be non-empty; name part must consist of"),
        (f"{'a' * 64}=b", "name part must be no more than 63 bytes"),
        (f"a={'1' * 64}", f'values[0][a]: Invalid value: "{"1" * 64}": must be no more than 63 bytes'),
        ("a=-b", "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"),
    ],
)
def test_bad_label_selectors_are_told_as_kubernetes_does(selector: str, message: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_selection(selector, "", SELECTABLE)
    assert refused.value.code == 400
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("selector", "name", "matches"),
    [
        ("metadata.name=a", "a", True),
        ("metadata.name==a", "b", False),
        ("metadata.name!=a", "b", True),
        (",metadata.name=a,", "a", True),
        ("metadata.name=a\\,b", "a,b", True),
        ("metadata.name=a\\=b", "a=b", True),
        ("metadata.name=a\\\\,metadata.name!=x", "a\\", True),
        ("metadata.name=", "", True),
    ],
)
def test_field_selectors_match_as_kubernetes_does(selector: str, name: str, matches: bool) -> None:
    assert parse_selection("", selector, SELECTABLE).matches({}, {"metadata.name": name}) is matches


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("foo", "invalid selector: 'foo'; can't understand 'foo'"),
        ("metadata.name=a=b", "unescaped character in value: ="),
        ("metadata.name=a\\b", "invalid escape sequence: \\b"),
        ("metadata.name=a\\", "invalid escape sequence: \\"),
        ("x=1", '"x" is not a known field selector: only "metadata.name", "metadata.namespace", "spec.packageName"'),
    ],
)
def test_bad_field_selectors_are_told_as_kubernetes_does(selector: str, message: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_selection("", selector, SELECTABLE)
    assert message in str(refused.value)


def test_the_index_gets_what_must_hold_and_no_guess() -> None:
    found = parse_selection("a=1,b!=2,c,spec.packageName=x", "spec.packageName=y,metadata.name!=z", SELECTABLE)
    assert found.required == {"a": "1", "spec.packageName": "y"}
    assert not found.everything
    assert parse_selection("", "", SELECTABLE) is EVERYTHING
