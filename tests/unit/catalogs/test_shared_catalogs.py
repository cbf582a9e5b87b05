"""Against the folder `shared` next to the repository, where it exists: the reference's verdicts, and real catalogs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.shared import ABSENT, COMMUNITY, FBC, SHARED
from tests.unit.catalogs.conftest import Parse

CASES: list[dict[str, Any]] = []
if (SHARED / "fixtures" / "fbc" / "expected.json").exists():
    CASES = json.loads((SHARED / "fixtures" / "fbc" / "expected.json").read_text())

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CASES, reason=ABSENT),
]

# What a finding must mention for the matter to be the one that the case is about.
MENTIONS = {
    "bad-alias-bomb": "alias",
    "bad-cycle": "cycle",
    "bad-cycle-nohead": "no channel head",
    "bad-deprecation-badschema": "schema unknown",
    "bad-deprecation-dupref": "duplicate deprecation",
    "bad-deprecation-pkgname": "package name must be empty",
    "bad-deprecation-two": "maximum of one",
    "bad-dup-bundle": "duplicate bundle 'foo.v1.0.0'",
    "bad-dup-channel": "duplicate channel 'stable'",
    "bad-dup-package": "duplicate package",
    "bad-dup-version": "{1.1.0: [foo.v1.0.0, foo.v1.1.0]}",
    "bad-empty-skip": "skip[0] is empty",
    "bad-entry-no-bundle": "[foo.v1.0.0]",
    "bad-gvk-type": "property[1] of type 'olm.gvk'",
    "bad-icon-base64": "base64",
    "bad-name-number": "name must be a string",
    "bad-no-default": "default channel must be set",
    "bad-no-pkgprop": "exactly 1 olm.package property, found 0",
    "bad-no-schema": "no schema",
    "bad-pkgname-dot": "DNS-1123",
    "bad-readme-no-indexignore": "must be an object",
    "bad-self-replace": "stranded bundles: foo.v1.1.0",
    "bad-separator-content": "a: b",
    "bad-skiprange-1": "01.2.0",
    "bad-skiprange-2": "abc",
    "bad-toplevel-list": "a list",
    "bad-truncated": "unexpected end of stream",
    "bad-two-pkgprop": "found 2",
    "bad-unknown-package": "unknown package",
    "bad-version-0": "'1.0'",
    "bad-version-1": "'v1.0.0'",
    "bad-version-3": "version ''",
    "bad-version-4": "leading zeroes",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["case"]))
async def test_the_verdict_is_the_reference_loaders(case: dict[str, Any], parsed: Parse, tmp_path: Path) -> None:
    root = SHARED / "fixtures" / "fbc" / case["case"]
    catalog = await parsed(root if root.exists() else tmp_path)  # git keeps no empty directory
    errors = [finding.message for finding in catalog.findings if not finding.warning]
    assert (not errors) is case["accept"]
    if not case["accept"]:
        assert any(MENTIONS[case["case"]] in message for message in errors), errors


async def test_real_catalogs_have_nothing_wrong_with_them(parsed: Parse) -> None:
    roots = [*FBC.glob("kueue/*/catalog"), *FBC.glob("gatekeeper/catalog-*")]
    for root in roots:
        catalog = await parsed(root, blobs=False)
        assert list(catalog.findings) == [], root
        assert len(catalog.packages) == 1
        assert catalog.revisions >= 1
    assert roots


async def test_the_community_catalog_is_complete_and_its_summaries_small(parsed: Parse) -> None:
    root = COMMUNITY
    catalog = await parsed(root)
    assert (len(catalog.packages), catalog.revisions, list(catalog.findings)) == (37, 803, [])
    records = [record for package in catalog.packages for record in package.records]
    assert len({record.name for record in records}) == len(records) == 840
    assert {digest for record in records for digest in record.blobs} == set(catalog.blobs)
    sizes = sorted(len(record.spec) + len(record.status) for record in records)
    assert sizes[len(sizes) // 2] < 1280
    assert sizes[-1] < 32 * 1024
    again = await parsed(root, known=catalog.index)
    assert (len(again.unchanged), list(again.packages), again.index) == (37, [], catalog.index)
