"""Whether PackageManifests are ours to serve: where OLM's package-server is, the doctor says no and names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from cacheserver.cli import packageserver
from cacheserver.cli.doctor import Level
from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.config import load
from cacheserver.errors import KubernetesError

APISERVICES = f"/apis/apiregistration.k8s.io/v1/apiservices/{packageserver.APISERVICE}"
CSVS = "/apis/operators.coreos.com/v1alpha1/clusterserviceversions"
OURS = {"metadata": {"labels": {"app.kubernetes.io/name": "cacheserver"}}}
OLMS = {"metadata": {"labels": {"olm.owner": "packageserver", "olm.owner.namespace": "olm"}}}
INSTALLED = {"items": [{"metadata": {"name": "packageserver", "namespace": "olm"}}]}
NONE: Mapping[str, Any] = {"items": []}


class Cluster:
    """Answers from a table; a number is the code of a refusal, 404 what is not in it."""

    def __init__(self, answers: Mapping[str, Mapping[str, Any] | int]) -> None:
        self._answers = answers

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        found = self._answers.get(path, 404)
        if isinstance(found, int):
            raise KubernetesError(f"{path}: {found}", code=found)
        return found


@pytest.mark.parametrize(
    ("answers", "level", "said"),
    [
        ({APISERVICES: OURS}, Level.OK, "not OLM's"),
        ({APISERVICES: OURS, CSVS: NONE}, Level.OK, "not OLM's"),
        ({APISERVICES: OURS, CSVS: 403}, Level.OK, "not OLM's"),
        ({APISERVICES: OLMS}, Level.FAILED, "is OLM's: label olm.owner=packageserver"),
        ({APISERVICES: OURS, CSVS: INSTALLED}, Level.FAILED, "CSV packageserver in olm"),
        ({CSVS: INSTALLED}, Level.FAILED, "CSV packageserver in olm"),
        ({}, Level.FAILED, "there is no APIService"),
        ({APISERVICES: 403}, Level.SKIPPED, "403"),
    ],
)
async def test_the_doctor_refuses_it_beside_olms(
    answers: Mapping[str, Mapping[str, Any] | int], level: Level, said: str, tmp_path: Path
) -> None:
    api = cast(KubeAPI, Cluster(answers))
    settings = load({"--packagemanifests": True}, {}, cwd=tmp_path)
    [found] = await packageserver.findings(api, settings)
    assert not await packageserver.findings(api, load({}, {}, cwd=tmp_path))
    assert found.level is level
    assert said in found.found
    assert bool(found.remedy) == (level is not Level.OK)
