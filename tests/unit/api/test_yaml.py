"""YAML that is answered says to programs in Go what the JSON says."""

from __future__ import annotations

import orjson
import pytest
import yaml

from cacheserver.api.readable import to_yaml
from cacheserver.catalogs.documents import goyaml
from cacheserver.catalogs.limits import ParseLimits

TEXTS = [
    *(
        "1e3",
        "1E5",
        "12e03",
        "+.5",
        "1e",
        "0o14",
        "0777",
        "089",
        "0x1f",
        "0b11",
        "1_000",
        "1.",
        "+1",
        "-",
        ".inf",
        ".nan",
    ),
    *("y", "N", "yes", "On", "off", "true", "True", "null", "~", "", "=", "<<", "1:30", "2001-01-01", "9" * 400),
    *(
        "1.2.3",
        ">=1.0.0 <2.0.0",
        "# a",
        "a #b",
        "a: b",
        "- a",
        "? a",
        "!x",
        "&x",
        "*x",
        "@x",
        "`x",
        "%x",
        "|",
        ">",
        "---",
    ),
    *(
        "a\n",
        "\n",
        "\n\n a",
        " a\n b",
        "a\tb\n",
        "a\n \n",
        "\ttab\nb",
        "\r\na",
        "x\x85y",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x1b[0m",
    ),
]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_a_text_stays_that_text(text: str) -> None:
    written = to_yaml(orjson.dumps({"value": text, "list": [text], "keys": {text or "empty": 1}}))
    expected = {"value": text, "list": [text], "keys": {text or "empty": 1}}
    assert goyaml.load(written, ParseLimits()).value == expected
    assert yaml.safe_load(written) == expected


def test_a_version_needs_no_quotes() -> None:
    assert to_yaml(b'{"version":"1.2.3"}') == b"version: 1.2.3\n"
