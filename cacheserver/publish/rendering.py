"""Whether a draft may go on with its pipeline not run. Pure.

There is no function runner yet: an empty pipeline counts as rendered, of others nobody knows (catalogs/krm/project.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cacheserver.catalogs.krm.facts import RENDERED
from cacheserver.publish import refusals


def check(name: str, manifest: Mapping[str, Any], lifecycle: str) -> None:
    """Of spec.render: Require. lifecycle: that is asked for. Raises: RefusedError 422 where it is not rendered."""
    conditions = manifest["status"].get("conditions", ())
    said: Mapping[str, Any] = next((each for each in conditions if each.get("type") == RENDERED), {})
    if said.get("status") == "True":
        return
    why = (
        f"its repository wants packages rendered (spec.render: Require), and this one is not known to be: "
        f"{RENDERED}={said.get('status', 'Unknown')}, {said.get('reason', 'NoRunner')}. Run its functions "
        "(kpt fn render) and save the result without them in the Kptfile's pipeline; or let the Repository say "
        "spec.render: IfPossible"
    )
    raise refusals.wrong(name, "spec.lifecycle", lifecycle, why)
