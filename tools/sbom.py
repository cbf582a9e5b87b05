"""A bill of materials of the system that it runs on, as CycloneDX JSON on standard output. The Dockerfile calls it.

Lists what dpkg has installed and the distributions of the Python that runs it, sorted, without a time, so that the same
content gives the same bytes. Knows nothing of what was copied in by other ways. Needs the standard library alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final
from urllib.parse import quote

_DPKG: Final = Path("/var/lib/dpkg/status")
_OURS: Final = "cacheserver"

Component = dict[str, str]


def python_components(found: Iterable[Distribution]) -> Iterator[Component]:
    """One a distribution. purl: the package-url specification, type pypi (PEP 503 names)."""
    for distribution in found:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        yield _component(name, distribution.version, f"pkg:pypi/{name}@{quote(distribution.version)}")


def debian_components(status: str) -> Iterator[Component]:
    """One an installed package of dpkg's status file (deb-control(5): paragraphs of `Field: value`)."""
    for paragraph in re.split(r"\n\n+", status):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
            yield _component(name, version, purl)


def _component(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def bill(components: Iterable[Component]) -> dict[str, object]:
    """A CycloneDX 1.5 document (https://cyclonedx.org/docs/1.5/json/); what is ours is what it is about."""
    known = {each["purl"]: each for each in components}
    ordered = [known[purl] for purl in sorted(known)]
    [about] = [each for each in ordered if each["purl"].startswith(f"pkg:pypi/{_OURS}@")]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**about, "type": "application"}},
        "components": [each for each in ordered if each is not about],
    }


def main() -> None:
    """Raises: ValueError where cacheserver is not installed in this Python."""
    status = _DPKG.read_text(encoding="utf-8") if _DPKG.exists() else ""
    document = bill([*python_components(distributions()), *debian_components(status)])
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
