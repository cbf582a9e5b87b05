"""Warnings are said at every parse, also of documents that it does not read again, where these stand then."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacheserver.catalogs import Catalog
from cacheserver.catalogs.fbc import index
from tests.unit.catalogs.conftest import Parse

FIXTURES = Path(__file__).parents[3] / "fixtures" / "fbc"

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


def warned(catalog: Catalog) -> list[tuple[str, str, int, int]]:
    return [(found.reason, found.path, found.document, found.line) for found in catalog.findings if found.warning]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The kettle, with a key that stands twice in its package's document, and an icon of no type of ours there."""
    text = (FIXTURES / "kettle.yaml").read_text()
    odd = "description: a\ndescription: b\nicon: {base64data: YQ==, mediatype: text/plain}\n"
    before, at, rest = text.partition("schema: olm.package\n")
    (tmp_path / "kettle.yaml").write_text(f"{before}{at}{odd}{rest}")
    return tmp_path


async def test_a_warning_is_said_again_of_what_did_not_change(parsed: Parse, root: Path) -> None:
    first = await parsed(root)
    assert sorted(reason for reason, *_ in warned(first)) == ["DuplicateKey", "IconType"]
    again = await parsed(root, known=first.index)
    assert (again.packages, again.unchanged) == ([], ["kettle"])
    assert sorted(warned(again)) == sorted(warned(first))
    assert sorted(warned(await parsed(root, known=again.index))) == sorted(warned(first))


async def test_it_is_told_where_the_document_stands_now(parsed: Parse, root: Path) -> None:
    first = await parsed(root)
    file = root / "kettle.yaml"
    file.write_text("# moved\n# down\n---\nschema: other\nname: x\n---\n" + file.read_text())
    moved = warned(await parsed(root, known=first.index))
    assert sorted(moved) == sorted(warned(await parsed(root)))
    assert moved != warned(first)


async def test_it_goes_with_its_cause(parsed: Parse, root: Path) -> None:
    first = await parsed(root)
    (root / "kettle.yaml").write_text((FIXTURES / "kettle.yaml").read_text())
    assert warned(await parsed(root, known=first.index)) == []


async def test_warnings_kept_are_bounded(parsed: Parse, tmp_path: Path) -> None:
    odd = "".join(f"---\nschema: other\nname: n{at}\nname: n{at}\n" for at in range(index.MOST_WARNINGS + 500))
    (tmp_path / "odd.yaml").write_text(odd)
    first = await parsed(tmp_path)
    kept = index.decode(first.index).warnings
    assert 0 < sum(map(len, kept.values())) <= index.MOST_WARNINGS
