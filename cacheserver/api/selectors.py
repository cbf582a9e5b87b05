"""Label and field selectors: the whole grammar, the original error messages, and what the cache's index can use.

Grammar and wording: k8s.io/apimachinery/pkg/{labels,fields}/selector.go and util/validation/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from enum import Enum
from typing import Final, NamedTuple

from cacheserver.api.status import bad_request, brief
from cacheserver.cache.several import Several
from cacheserver.memo import Memo
from cacheserver.slotted import slotted

SELECTOR_CHARACTERS: Final = 8 << 10
"""Of a label or field selector. kube has no limit but its header's, and spends 31,000 terms on whoever sends them."""
SELECTOR_TERMS: Final = 256
"""Of a label or field selector, each value of a set counted: about 2 ms of parsing, and 50 KB while it is watched."""
PARSED_BYTES: Final = 2 << 20
"""Of selectors as they were sent, and what was made of them: some 1,500 of one term, which takes 25 us to parse."""
_PROBLEMS: Final = 4  # values of a set that a refusal explains; each takes 300 characters

_TOKEN: Final = re.compile(r"[=!]=|[=!(),><]|[^=!(),>< \t\r\n]+")
_SYMBOLS: Final = frozenset((")", ",", "!", "==", "=", ">", "<", "!=", "("))
_KEYWORDS: Final = frozenset(("in", "notin"))
_OPERATORS: Final = "in, notin, =, ==, !=, gt, lt"

_NAME: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME_RE: Final = re.compile(_NAME)
_SUBDOMAIN_RE: Final = re.compile(_SUBDOMAIN)
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_CHARSET: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
_NAME_ERROR: Final = f"{_CHARSET} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
_VALUE_ERROR: Final = (
    f"a valid label must be an empty string or {_CHARSET.removeprefix('must ')} "
    f"(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '({_NAME})?')"
)
_SUBDOMAIN_ERROR: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)

_TERM_RE: Final = re.compile(r"(?:\\.|[^,\\]|\\\Z)+", re.DOTALL)  # what is between commas that are not escaped

_MANY: Final = 8  # values; fewer are found as fast in a tuple, which takes a quarter of a set's memory


class Must(Enum):
    """What is asked of the value at a key. A label that is not there has none, a field that is not there is empty."""

    BE_ONE_OF = "in"
    NOT_BE_ANY_OF = "notin"
    BE_THERE = "exists"
    NOT_BE_THERE = "!"
    BE_ABOVE = ">"
    BE_BELOW = "<"


class Term(NamedTuple):
    """values: of BE_ABOVE and BE_BELOW the one number, as text."""

    key: str
    must: Must
    values: Collection[str] = ()

    def holds(self, value: str | None) -> bool:
        """Whether an object with this value fulfils the term; value: None where it has no such label.

        Of several values one has to be asked for, or none may be what it must not be.
        """
        must = self.must
        if must is Must.BE_ONE_OF:
            if isinstance(value, Several):
                return any(map(value.has, self.values))
            return value in self.values
        if must is Must.NOT_BE_ANY_OF:
            if isinstance(value, Several):
                return not any(map(value.has, self.values))
            return value not in self.values
        if must is Must.BE_THERE:
            return value is not None
        if must is Must.NOT_BE_THERE:
            return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        (bound,) = self.values
        return int(value) > int(bound) if must is Must.BE_ABOVE else int(value) < int(bound)


@slotted(frozen=True, eq=False)
class Selection:
    """What a list or watch selects; implements watchcache.Selector.

    text: the selectors as sent: equal texts select alike. cost: of matching one object, as Selector has it.
    again: whoever sends the same selectors is answered with this very object.
    """

    text: str = ""
    required: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[Term, ...] = ()
    fields: tuple[Term, ...] = ()
    cost: int = 2
    again: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return 600 + 2 * len(self.text) + 300 * sum(1 + len(term.values) for term in (*self.labels, *self.fields))

    @property
    def held(self) -> int:
        """As Selector has it."""
        return self.size if self.again else 0

    @property
    def everything(self) -> bool:
        """Whether it selects all objects."""
        return not self.labels and not self.fields

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """Whether an object with these labels and selectable fields is selected; a field that is missing counts as
        empty."""
        for term in self.fields:
            if not term.holds(fields.get(term.key, "")):
                return False
        return all(term.holds(labels.get(term.key)) for term in self.labels)


EVERYTHING: Final = Selection(again=True)
_parsed: Final = Memo[tuple[str, str, tuple[str, ...]], Selection](PARSED_BYTES)


def check_cost(labels: str, fields: str) -> None:
    """Before anything is parsed. Raises: StatusError 400 for a selector that would cost others their turn."""
    for name, text in (("label", labels), ("field", fields)):
        if len(text) > SELECTOR_CHARACTERS:
            found, most = f"{len(text)} characters", SELECTOR_CHARACTERS
        elif (terms := text.count(",") + 1) > SELECTOR_TERMS:
            found, most = f"{terms} terms and values", SELECTOR_TERMS
        else:
            continue
        raise bad_request(
            f"the {name} selector has {found}, at most {most} are taken: ask for more, and choose from it"
        )


def held_bytes(labels: str, fields: str) -> int:
    """What a watch with these holds, its request included: 290 bytes a term, measured. Before anything is parsed."""
    return sum(2 * len(text) + 300 * (text.count(",") + 2) for text in (labels, fields) if text)


def parse_selection(labels: str, fields: str, selectable: tuple[str, ...]) -> Selection:
    """The same object for the same selectors, as long as they are remembered. selectable: field paths that may be
    selected by. Raises: StatusError 400 that says what is wrong and where.
    """
    if not labels and not fields:
        return EVERYTHING
    asked = (labels, fields, selectable)
    known = _parsed.get(asked)
    if known is None:
        known = _parse(labels, fields, selectable)
        _parsed.put(asked, known, known.size + len(labels) + len(fields))
    return known


def _parse(labels: str, fields: str, selectable: Collection[str]) -> Selection:
    check_cost(labels, fields)
    required: dict[str, str] = {}
    label_terms = _parse_labels(labels, required, selectable)
    field_terms = _parse_fields(fields, required, selectable)
    cost = 2 + len(label_terms) + len(field_terms)
    return Selection(f"{labels}\0{fields}", required, label_terms, field_terms, cost, again=True)


# --- labels -------------------------------------------------------------------------------------------------------


class _SelectorError(ValueError):
    """Message only; becomes a 400."""


def _scan(text: str) -> list[str]:
    """Tokens: symbols, and words (anything between symbols and white space). The empty string ends the list."""
    return [*_TOKEN.findall(text), ""]


class _Labels:
    """Recursive descent over tokens, as labels.Parser."""

    def __init__(self, text: str) -> None:
        self._tokens = _scan(text)
        self._at = 0

    def parse(self) -> list[tuple[str, str, list[str]]]:
        """(key, operator, values); operators: exists, !, in, notin, =, ==, !=, >, <."""
        found: list[tuple[str, str, list[str]]] = []
        while True:
            word = self._peek()
            if not word:
                return found
            if word != "!" and not _is_word(word):
                raise _SelectorError(f"found '{brief(word)}', expected: !, identifier, or 'end of string'")
            try:
                found.append(self._requirement())
            except _SelectorError as exc:
                raise _SelectorError(f"unable to parse requirement: {exc}") from None
            word = self._take()
            if not word:
                return found
            if word != ",":
                raise _SelectorError(f"found '{brief(word)}', expected: ',' or 'end of string'")
            word = self._peek()
            if word != "!" and not _is_word(word):
                raise _SelectorError(f"found '{brief(word)}', expected: identifier after ','")

    def _peek(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        word = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return word

    def _requirement(self) -> tuple[str, str, list[str]]:
        key = self._take()
        negated = key == "!"
        if negated:
            key = self._take()
        if not _is_word(key):
            raise _SelectorError(f"found '{brief(key)}', expected: identifier")
        if problems := label_key_problems(key):
            raise _SelectorError(f"<nil>: Invalid value: {_quote(key)}: {'; '.join(problems)}")
        if self._peek() in ("", ","):
            return key, "!" if negated else "exists", []
        operator = self._take()
        if operator in _KEYWORDS:
            values = self._set()
        elif operator in ("=", "==", "!=", ">", "<"):
            values = [self._exact()]
        else:
            raise _SelectorError(f"found '{brief(operator)}', expected: {_OPERATORS}")
        _check_values(key, operator, values)
        return key, operator, values

    def _exact(self) -> str:
        if self._peek() in ("", ","):
            return ""
        word = self._take()
        if not _is_word(word):
            raise _SelectorError(f"found '{brief(word)}', expected: identifier")
        return word

    def _set(self) -> list[str]:
        word = self._take()
        if word != "(":
            raise _SelectorError(f"found '{brief(word)}' expected: '('")
        values: set[str] = set()
        before = ""
        while True:
            word = self._take()
            if word == ")":
                if before == ",":
                    values.add("")
                return sorted(values)
            if word == ",":
                if before in ("", ","):
                    values.add("")
            elif before not in ("", ","):
                raise _SelectorError(f"found '{brief(word)}', expected: ',' or ')'")
            elif not _is_word(word):
                expected = "',', or identifier" if before else "',', ')' or identifier"
                raise _SelectorError(f"found '{brief(word)}', expected: {expected}")
            else:
                values.add(word)
            before = word


def _is_word(word: str) -> bool:
    return bool(word) and word not in _SYMBOLS


def _quote(text: str) -> str:
    return '"' + brief(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def label_key_problems(key: str) -> list[str]:
    """Why `key` is not a label key; empty when it is one (validation.IsQualifiedName)."""
    prefix, slash, name = key.rpartition("/")
    problems: list[str] = []
    if "/" in prefix:
        hint = f"{_NAME_ERROR} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return [f"a qualified name {hint}"]
    if slash and not prefix:
        problems.append("prefix part must be non-empty")
    elif slash and (len(prefix) > 253 or not _SUBDOMAIN_RE.fullmatch(prefix)):
        problems.append(f"prefix part {_SUBDOMAIN_ERROR}")
    if not name:
        problems.append("name part must be non-empty")
    elif len(name) > 63:
        problems.append("name part must be no more than 63 bytes")
    if not _NAME_RE.fullmatch(name):
        problems.append(f"name part {_NAME_ERROR}")
    return problems


def _check_values(key: str, operator: str, values: list[str]) -> None:
    problems: list[str] = []
    if operator in _KEYWORDS and not values:
        hint = "for 'in', 'notin' operators, values set can't be empty"
        problems.append(f"values: Invalid value: []: {hint}")
    for i, value in enumerate(values):
        if operator in ("<", ">") and not _INTEGER.fullmatch(value):
            hint = "for 'Gt', 'Lt' operators, the value must be an integer"
            problems.append(f"values[{i}]: Invalid value: {_quote(value)}: {hint}")
        wrong = ["must be no more than 63 bytes"] if len(value.encode()) > 63 else []
        if value and not _NAME_RE.fullmatch(value):
            wrong.append(_VALUE_ERROR)
        if wrong:
            problems.append(f"values[{i}][{key}]: Invalid value: {_quote(value)}: {'; '.join(wrong)}")
        if len(problems) >= _PROBLEMS and i + 1 < len(values):
            problems.append(f"{len(values) - i - 1} more values")
            break
    if problems:
        raise _SelectorError(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")


def _parse_labels(text: str, required: dict[str, str], selectable: Collection[str]) -> tuple[Term, ...]:
    try:
        parsed = _Labels(text).parse()
    except _SelectorError as exc:
        raise bad_request(str(exc)) from None
    terms: list[Term] = []
    for key, operator, values in parsed:
        terms.append(Term(key, _MUSTS[operator], tuple(values) if len(values) < _MANY else frozenset(values)))
        # A label may be called like a field; the index could not distinguish them, so it gets no hint.
        if operator in ("=", "==") and key not in selectable:
            required[key] = values[0]
    return _joined(terms)


_MUSTS: Final = {
    **{must.value: must for must in Must},
    "=": Must.BE_ONE_OF,
    "==": Must.BE_ONE_OF,
    "!=": Must.NOT_BE_ANY_OF,
}


def _joined(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Whatever a key must not be, in one term: `a!=1,a!=2` and a hundred more is how clients leave some out."""
    kept: list[Term] = []
    unwanted: dict[str, set[str]] = {}
    for term in terms:
        if term.must is Must.NOT_BE_ANY_OF:
            unwanted.setdefault(term.key, set()).update(term.values)
        else:
            kept.append(term)
    for key, values in unwanted.items():
        kept.append(Term(key, Must.NOT_BE_ANY_OF, tuple(values) if len(values) < _MANY else frozenset(values)))
    return tuple(kept)


# --- fields -------------------------------------------------------------------------------------------------------


def _parse_fields(text: str, required: dict[str, str], selectable: Collection[str]) -> tuple[Term, ...]:
    terms: list[Term] = []
    for term in filter(None, _TERM_RE.findall(text)):
        parts = re.match(r"(.*?)(!=|==|=)(.*)", term, re.DOTALL)
        if parts is None:
            raise bad_request(f"invalid selector: '{brief(text)}'; can't understand '{brief(term)}'")
        path, operator, value = parts[1], parts[2], _unescape(parts[3])
        if path not in selectable:
            allowed = ", ".join(f'"{name}"' for name in selectable)
            raise bad_request(f"{_quote(path)} is not a known field selector: only {allowed}")
        terms.append(Term(path, _MUSTS[operator], (value,)))
        if operator != "!=":
            required[path] = value
    return _joined(terms)


def _unescape(value: str) -> str:
    out: list[str] = []
    escaped = False
    for character in value:
        if escaped:
            if character not in "\\,=":
                raise bad_request(f"invalid field selector: invalid escape sequence: \\{character}")
            out.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in ",=":
            raise bad_request(f"invalid field selector: unescaped character in value: {character}")
        else:
            out.append(character)
    if escaped:
        raise bad_request("invalid field selector: invalid escape sequence: \\")
    return "".join(out)
