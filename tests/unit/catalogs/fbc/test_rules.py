"""Every rule has a small catalog that breaks it, under tests/fixtures/fbc/bad, named after the reason it must give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.catalogs.conftest import Parse

FIXTURES = Path(__file__).parents[3] / "fixtures" / "fbc"
BAD = sorted(path.name for path in (FIXTURES / "bad").iterdir())
GOOD = sorted(path.name for path in (FIXTURES / "good").iterdir())

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize("case", BAD)
async def test_a_broken_rule_is_named_and_the_neighbour_is_served(case: str, parsed: Parse, tmp_path: Path) -> None:
    # In directories of their own: what lies in or below a package's directory may speak of it (fbc/held.py).
    for name, directory in ((f"bad/{case}", "bad"), ("kettle.yaml", "kettle")):
        (tmp_path / directory).mkdir()
        shutil.copy(FIXTURES / name, tmp_path / directory)
    catalog = await parsed(tmp_path, f"bad/{case}", "kettle/kettle.yaml")
    reasons = {finding.reason for finding in catalog.findings if not finding.warning}
    assert Path(case).stem.partition("-")[0] in reasons
    assert [package.name for package in catalog.packages if package.name == "kettle"] == ["kettle"]
    for finding in catalog.findings:
        assert finding.path == f"bad/{case}"
        assert finding.line >= 1
        assert finding.document >= 1
    # What names no package means that packages may be missing.
    assert catalog.unreadable is any(not finding.package for finding in catalog.findings)
    for name, findings in catalog.rejected.items():
        assert {finding.package for finding in findings} == {name}


@pytest.mark.parametrize("case", GOOD)
async def test_a_good_catalog_has_no_findings(case: str, parsed: Parse) -> None:
    catalog = await parsed(FIXTURES, f"good/{case}")
    assert list(catalog.findings) == []
    assert [package.name for package in catalog.packages] == ["lamp"]
    assert not catalog.unreadable
