"""contrib/k9s: its files are of k9s's forms, and name verbs, kinds and columns that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cacheserver.api.kinds.table import RESOURCES
from cacheserver.client.main import parser

FILES: Final = Path(__file__).parents[2] / "contrib" / "k9s"
VIEWS: Final[dict[str, Any]] = yaml.safe_load((FILES / "views.yaml").read_text())
PLUGINS: Final[dict[str, Any]] = yaml.safe_load((FILES / "plugins.yaml").read_text())
RESOURCES_BY_GVR: Final = {f"{row.group}/{row.version}/{row.plural}": row for row in RESOURCES}
COMING: Final = "cacheserver.dev/v1alpha1/packagechanges"
"""A kind whose columns are agreed before it is served."""


@pytest.mark.parametrize("gvr", VIEWS["views"])
def test_a_view_has_columns_that_there_are(gvr: str) -> None:
    """k9s, internal/config/json/schemas/views.json; it has a server's columns in capitals."""
    view = VIEWS["views"][gvr]
    assert view.keys() <= {"columns", "sortColumn"}
    column, _, order = view["sortColumn"].partition(":")
    assert order in ("asc", "desc")
    if gvr == COMING and gvr not in RESOURCES_BY_GVR:
        return
    there = {each.name.upper() for each in RESOURCES_BY_GVR[gvr].columns}
    assert [name for name in (*view["columns"], column) if name not in there] == []


@pytest.mark.parametrize("name", PLUGINS["plugins"])
def test_a_plugin_types_a_command_that_is_understood(name: str) -> None:
    """k9s, internal/config/json/schemas/plugins.json."""
    plugin = PLUGINS["plugins"][name]
    assert {"shortCut", "description", "scopes", "command"} <= plugin.keys()
    assert plugin.keys() <= {"shortCut", "description", "scopes", "command", "args", "confirm", "dangerous"}
    assert set(plugin["scopes"]) <= {row.plural for row in RESOURCES}
    assert plugin["command"] == "sh"
    flag, script, _, *words = plugin["args"]
    # k9s replaces each $WORD in any argument: in the script, names would be run; one that it does not know is refused.
    assert (flag, script) == ("-c", '"$@" 2>&1 | less')
    assert {word for word in words if "$" in word} == {"$NAME", "$NAMESPACE", "$CONTEXT"}
    assert words[:2] == ["kubectl", "cacheserver"]
    asked = parser().parse_args(words[2:])
    assert (asked.namespace, asked.context) == ("$NAMESPACE", "$CONTEXT")
    assert plugin.get("confirm", False) is (asked.verb in ("propose", "approve", "reject", "sync"))


def test_no_two_plugins_of_a_view_have_one_key() -> None:
    keys = [(scope, one["shortCut"]) for one in PLUGINS["plugins"].values() for scope in one["scopes"]]
    assert len(keys) == len(set(keys))
