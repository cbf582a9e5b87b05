"""What is served of a Repository is what its schema declares, so that `kubectl explain` and the CRD tell the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from cacheserver.api.kinds.repository import REPOSITORY
from cacheserver.api.kinds.resource import Field
from cacheserver.catalogs.catalog import Finding
from cacheserver.config import RepositoryConfig
from cacheserver.config.repositories import Defaults, from_path, from_text
from cacheserver.ingest import status
from cacheserver.ingest.sync import Outcome, SyncReport

SOURCES = {
    "/srv/catalog": "/srv/catalog",
    "oci://registry.example/team/catalog:v4": "oci://registry.example/team/catalog:v4",
    "oci-layout:/srv/layout": "oci-layout:/srv/layout",
    "git+https://git.example/team/catalog.git@v4#operators": "https://git.example/team/catalog.git@v4#operators",
}
"""Source on the command line -> how the table shows it."""


def _declared(field: Field, path: str) -> Iterator[str]:
    yield path
    for inner in field.fields:
        yield from _declared(inner, f"{path}.{inner.name}")


DECLARED = {path for part in (REPOSITORY.spec, REPOSITORY.status) if part for path in _declared(part, part.name)}


def _paths(value: Any, path: str) -> Iterator[str]:
    yield path
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _paths(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, path)


def _served(config: RepositoryConfig, report: SyncReport | None = None) -> dict[str, Any]:
    phase = status.synced(report) if report else status.syncing(None)
    record = status.repository_record(config, phase, report, None, now=0.0)
    assert record is not None
    return {"metadata": {"name": record.name}, "spec": orjson.loads(record.spec), "status": orjson.loads(record.status)}


@pytest.mark.parametrize("source", SOURCES)
def test_every_field_of_a_source_is_declared(source: str) -> None:
    served = _served(from_text(f"c={source}", Path("/"), Defaults()))
    assert set(_paths(served["spec"], "spec")) <= DECLARED


def test_every_field_of_a_status_is_declared() -> None:
    config = from_text("c=/srv/catalog", Path("/"), Defaults())
    rejected = {"app": [Finding("NoChannel", "must contain at least one channel", "catalog.yaml", package="app")]}
    report = SyncReport(config.key, outcome=Outcome.APPLIED, rejected=rejected, ignored_tags=3)
    assert set(_paths(_served(config, report)["status"], "status")) <= DECLARED


@pytest.mark.parametrize(
    "kind", sorted(path.split(".")[2] for path in DECLARED if path.count(".") == 2 and ".source." in path)
)
def test_every_declared_source_can_be_read(kind: str, tmp_path: Path) -> None:
    inner = {"oci": {"image": "registry.example/catalog:v4"}, "git": {"url": "https://git.example/catalog.git"}}
    manifest = {
        "apiVersion": REPOSITORY.api_version,
        "kind": REPOSITORY.kind,
        "metadata": {"name": "c"},
        "spec": {"source": {kind: inner.get(kind, {"path": "/srv/catalog"})}},
    }
    (tmp_path / "repository.json").write_bytes(orjson.dumps(manifest))
    assert [config.key.name for config in from_path(tmp_path, Defaults())] == ["c"]


@pytest.mark.parametrize("source", SOURCES)
def test_the_table_shows_every_source(source: str) -> None:
    served = _served(from_text(f"c={source}", Path("/"), Defaults()))
    column = next(column for column in REPOSITORY.columns if column.name == "Source")
    assert column.value is not None
    assert column.value(served) == SOURCES[source]
