"""Go's rules for YAML scalars and JSON numbers, so that a catalog means here what it means to OLM.

Source: resolve.go of go-yaml v2 (which sigs.k8s.io/yaml uses) and encoding/json; golden table in the tests.
"""

from __future__ import annotations

import re
from math import copysign, isinf, isnan

import orjson

from cacheserver.catalogs.documents.document import JSON, DocumentError
from cacheserver.catalogs.limits import ParseLimits

Number = int | float | orjson.Fragment
Scalar = str | bool | Number | None

WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
"""go-yaml v2 resolve.go, resolveMap: YAML 1.1 booleans, `y` and `n` among them."""

SUSPECT = frozenset("+-0123456789yYnNtTfFoO~.")
"""First characters of plain scalars that may be no strings (resolve.go, resolveTable); all others are strings."""

NUMERIC = SUSPECT - frozenset("yYnNtTfFoO~")
"""Of those, the ones that are more than a look into WORDS."""

_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*))\Z"
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_DEPTH = re.compile("depth limit|Recursion limit")  # orjson from 3.13 on, and before
_EXACT = 1 << 53
_LONGEST = 400  # no finite number needs more characters; also bounds int()'s quadratic time


def plain(scalar: str) -> Scalar:
    """The value of an untagged plain scalar. Timestamps and sexagesimals (`12:30`) are strings.

    Raises: DocumentError for infinities and NaN, which JSON cannot hold (encoding/json refuses them too).
    """
    if scalar in WORDS:
        return WORDS[scalar]
    if scalar[0] not in NUMERIC:
        return scalar
    if _NOT_FINITE.match(scalar):
        raise DocumentError("UnsupportedValue", f"{scalar} cannot be written as JSON")
    if len(scalar) > _LONGEST:
        return scalar
    # A leading dot is tried as a float only, underscores and all; elsewhere underscores are dropped first.
    bare = scalar if scalar[0] == "." else scalar.replace("_", "")
    integer = _INTEGER.match(bare)
    if integer:
        whole = _whole(integer)
        if -(1 << 63) <= whole < (1 << 64):
            return number(whole)
    if _FLOAT.match(bare):
        value = float(bare)
        if not isinf(value):
            return number(value)
    return scalar


def _whole(match: re.Match[str]) -> int:
    for name, base in (("hex", 16), ("bin", 2), ("oct", 8), ("dec", 10)):
        digits = match[name]
        if digits is not None:
            return -int(digits, base) if match["sign"] == "-" else int(digits, base)
    raise AssertionError(match.re.pattern)


def number(value: float) -> Number:
    """`value` as Go prints it after a trip through float64: 1000 for 1e3, whole numbers beyond 2^53 rounded.

    Raises: DocumentError when it does not fit a float64.
    """
    if isinstance(value, int) and -_EXACT <= value <= _EXACT:
        return value
    try:
        real = float(value)
    except OverflowError:
        raise DocumentError("UnsupportedValue", "a number is out of the range of float64") from None
    if isinf(real) or isnan(real):
        raise DocumentError("UnsupportedValue", "a number is out of the range of float64")
    if real == 0.0:
        return orjson.Fragment(b"-0") if copysign(1.0, real) < 0 else 0
    if abs(real) < 1e15 and real.is_integer():
        return int(real)
    if 1e-3 <= abs(real) < 1e15:
        return real
    return orjson.Fragment(_go_float(real))


def _go_float(value: float) -> bytes:
    """encoding/json floatEncoder: no exponent from 1e-6 up to 1e21; `e-09` is shortened to `e-9`."""
    shortest = repr(value)
    if 1e-6 <= abs(value) < 1e21:
        return _without_exponent(shortest).removesuffix(".0").encode()
    return shortest.replace("e-0", "e-").encode()


def _without_exponent(shortest: str) -> str:
    """The same digits. By hand: the module `decimal` is 0.4 MB of each process, and a millisecond of its start."""
    digits, _, exponent = shortest.partition("e")
    if not exponent:
        return digits
    whole, _, fraction = digits.removeprefix("-").partition(".")
    sign, point = "-" * digits.startswith("-"), len(whole) + int(exponent)
    if point <= 0:
        return f"{sign}0.{'0' * -point}{whole}{fraction}"
    digits = (whole + fraction).ljust(point, "0")
    return f"{sign}{digits[:point]}.{digits[point:]}".removesuffix(".")


def key(scalar: str) -> str:
    """A plain mapping key as a string: `1: x`, `on: x` become "1" and "true" (sigs.k8s.io/yaml).

    Raises: DocumentError for a null key.
    """
    value = plain(scalar)
    if isinstance(value, str):
        return value
    if value is None:
        raise DocumentError("UnsupportedKey", "a mapping key is null")
    return orjson.dumps(value).decode()


def from_json(raw: bytes, limits: ParseLimits) -> JSON:
    """The one JSON value in `raw`, its numbers as Go prints them. Raises: DocumentError, with a line."""
    if raw.count(b"{") + raw.count(b"[") > limits.containers:
        # Cheap and rough (strings count too), but before memory is spent.
        raise DocumentError("TooManyNodes", f"more than {limits.containers} objects and lists")
    try:
        value: JSON = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        reason = "InvalidUTF8" if "UTF-8" in exc.msg else "TooDeep" if _DEPTH.search(exc.msg) else "JSONSyntax"
        line = _line_of_bad_byte(raw) if reason == "InvalidUTF8" else exc.lineno
        raise DocumentError(reason, exc.msg, line=line) from exc
    return _as_go(value, limits.depth)


def _line_of_bad_byte(raw: bytes) -> int:
    """orjson looks at all bytes first, and always says line 1."""
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        return raw.count(b"\n", 0, exc.start) + 1
    return 1


def _as_go(value: JSON, depth: int) -> JSON:
    """`value` with its numbers put right, in place."""
    if depth < 0:
        raise DocumentError("TooDeep", "nested too deep")
    if isinstance(value, dict):
        for name, part in value.items():
            kind = part.__class__
            if kind is dict or kind is list or kind is float or kind is int:
                value[name] = _as_go(part, depth - 1)
        return value
    if isinstance(value, list):
        for at, part in enumerate(value):
            kind = part.__class__
            if kind is dict or kind is list or kind is float or kind is int:
                value[at] = _as_go(part, depth - 1)
        return value
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
