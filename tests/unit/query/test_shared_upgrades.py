"""Against the folder `shared` next to the repository, where it exists: paths through real channels, from a table that a
script made which knows nothing of the product."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import pytest_asyncio

from cacheserver.query.edges import Edge
from cacheserver.query.package import Package, stranger
from cacheserver.query.upgrades import upgrades
from tests.support import served
from tests.support.shared import ABSENT, COMMUNITY, rows

ROWS = rows("finding/upgrades.tsv")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not ROWS, reason=ABSENT),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def packages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Package]:
    return await served.packages(COMMUNITY, tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['package']}-{row['channel']}-{row['from']}-{row['to']}")
async def test_the_way_is_the_tables(packages: Mapping[str, Package], row: Mapping[str, str]) -> None:
    package = packages[row["package"]]
    start = next(iter(package.called(row["from"])), None) or stranger(row["from"])
    (to,) = package.called(row["to"])
    found = upgrades(package, start, to, row["channel"])
    assert (",".join(edge.to for edge in found.successors) or "-") == row["successors_v1"]
    assert (found.automatic.steps[0].to if found.automatic.steps else "-") == row["next_v1"]
    unpinned = upgrades(package, start, None, row["channel"]).v0.steps
    assert (unpinned[0].to if unpinned else "-") == row["next_v0"]
    assert (" > ".join(map(_written, found.path.steps)) or "-") == row["path"]
    reason = found.path.reason
    if row["reason"]:
        assert reason is not None
        assert reason.name == row["reason"].partition(":")[0]
    else:
        assert reason is None or (reason.name, row["steps"]) == ("Same", "0")
        assert len(found.path.steps) == int(row["steps"])


def _written(edge: Edge) -> str:
    return f"{edge.to} ({'+'.join(edge.reasons)})"
