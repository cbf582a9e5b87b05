"""What the doctor says of doors, asked of a stand-in of kube-apiserver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cacheserver.cli import doors
from cacheserver.cli.doctor import Finding, Level
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.compat.clustercatalogs.controller import PATH
from cacheserver.compat.clustercatalogs.rival import DEPLOYMENT
from cacheserver.config import Address, Door, RepositoryConfig, Settings, parse_source
from cacheserver.config.doors import parse_listener
from cacheserver.config.settings import ServingSettings
from cacheserver.model import RepositoryKey
from tests.fakes.kube import KubeStandIn

SETTINGS = Settings(serving=ServingSettings(cluster_catalogs="catalogs", catalogs_url="https://doors"))
DEPLOYMENTS = "/apis/apps/v1/deployments"
CATALOGD = f"/apis/apps/v1/namespaces/olmv1-system/deployments/{DEPLOYMENT}"


async def found(kube: KubeStandIn, directory: Path, settings: Settings = SETTINGS) -> list[Finding]:
    async with KubeAPI(kube.kubeconfig(directory)) as api:
        return list(await doors.clustercatalogs(api, settings))


async def test_a_catalogd_that_runs_is_named_with_what_to_do(tmp_path: Path) -> None:
    async with KubeStandIn() as kube:
        kube.put(CATALOGD, {"metadata": {}, "status": {"readyReplicas": 1}})
        first, *_ = await found(kube, tmp_path)
        assert (first.level, "olmv1-system" in first.found) == (Level.FAILED, True)
        assert f"kubectl -n olmv1-system scale deployment/{DEPLOYMENT} --replicas=0" in first.remedy
        kube.put(CATALOGD, {"metadata": {}, "status": {}})
        assert [each.level for each in await found(kube, tmp_path)] == [Level.OK, Level.OK]


async def test_rights_that_lack_and_a_kind_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    async with KubeStandIn() as kube:
        kube.deny(DEPLOYMENTS)
        kube.deny(PATH, 404)
        catalogd, catalogs = await found(kube, tmp_path)
        assert (catalogd.level, "its rights" in catalogd.remedy) == (Level.FAILED, True)
        assert (catalogs.level, "CustomResourceDefinition" in catalogs.remedy) == (Level.FAILED, True)


async def test_nothing_is_asked_where_clustercatalogs_are_not_wanted(tmp_path: Path) -> None:
    async with KubeStandIn() as kube:
        assert await found(kube, tmp_path, Settings()) == []
        assert not kube.calls


def catalog(**conditions: tuple[str, str]) -> Mapping[str, Any]:
    said = [{"type": name, "status": s, "reason": r, "message": "why"} for name, (s, r) in conditions.items()]
    return {"metadata": {"name": "hub"}, "status": {"conditions": said}}


@pytest.mark.parametrize(
    ("item", "levels"),
    [
        (catalog(Progressing=("True", "Succeeded"), Serving=("True", "Available")), []),
        (catalog(Progressing=("True", "Succeeded"), Serving=("False", "UserSpecifiedUnavailable")), []),
        (catalog(Progressing=("True", "Retrying"), Serving=("True", "Available")), [Level.WARNING]),
        (catalog(Progressing=("False", "Blocked")), [Level.FAILED]),
        (catalog(), [Level.WARNING]),
        ({"metadata": {"name": "hub"}}, [Level.WARNING]),
    ],
)
def test_a_clustercatalog_is_judged_by_its_conditions(item: Mapping[str, Any], levels: list[Level]) -> None:
    assert [each.level for each in doors.trouble(item)] == levels


def test_what_is_published_is_counted_by_door() -> None:
    config = RepositoryConfig(RepositoryKey("n", "r"), parse_source("/x", Path("/")))
    both = replace(config, publish=frozenset({Door.CATALOG, Door.REGISTRY}))
    shown = [config, both, replace(config, publish=frozenset({Door.CATALOG}))]
    registry = (parse_listener("n/r=0.0.0.0:50051", Path()),)
    heard = Settings(serving=ServingSettings(catalogs_listen=Address("0.0.0.0", 8444), registry=registry))
    deaf = replace(heard, serving=replace(heard.serving, registry=()))
    [finding] = doors.published(shown, deaf)
    assert (finding.level, "components/registry" in finding.remedy) == (Level.WARNING, True)
    [finding] = doors.published(shown, heard)
    assert (finding.level, finding.found) == (Level.OK, "2 by Catalog, 1 by Registry")
    [finding] = doors.published(shown, Settings())
    assert (finding.level, "components/catalogs" in finding.remedy) == (Level.WARNING, True)
    assert doors.published([config], heard) == []
