"""What catalogd, operator-controller at df2c201, answers of the odd catalog, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import orjson
import pytest

from cacheserver.catalogs import ParsedPackage
from cacheserver.model import Digest, Kind
from tests.support import odd_catalog
from tests.support.content import unpacked
from tests.unit.catalogs.conftest import Parse

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

ALL: Final = "0da7f334add4764b8c685c4931af0b73cf12d8c074609527ab81b8f92dbb4b37"
"""SHA-256 of its /api/v1/all: kettle, the documents of no package, samovar, teapot, urn."""


async def test_its_documents_are_written_as_catalogd_writes_them(parsed: Parse, tmp_path: Path) -> None:
    catalog = await parsed(odd_catalog.write(tmp_path))
    kept = {package.name: _documents(package) for package in catalog.packages}
    assert sorted(kept) == ["kettle", "samovar", "teapot", "urn"]
    assert catalog.documents is not None
    ordered = (kept["kettle"], catalog.documents, kept["samovar"], kept["teapot"], kept["urn"])
    body = b"".join(unpacked(catalog.blobs[each]) for each in ordered)
    assert hashlib.sha256(body).hexdigest() == ALL, body.decode()


def _documents(package: ParsedPackage) -> Digest:
    [record] = [each for each in package.records if each.key.kind is Kind.PACKAGE]
    return Digest(orjson.loads(record.status)["documents"]["digest"])
