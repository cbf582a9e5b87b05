"""The manifests of the dedicated etcd: well formed, consistent with each other, every flag explained. Needs no etcd."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs" / "etcd"
FILES = sorted(CONFIGS.glob("*/*.yaml"))


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_holds_kubernetes_objects(path: Path) -> None:
    found = list(documents(path))
    assert found
    assert all(document["apiVersion"] and document["kind"] for document in found)


@pytest.mark.parametrize("name", ["base", "three"])
def test_every_file_is_used_and_none_is_missing(name: str) -> None:
    [kustomization] = documents(CONFIGS / name / "kustomization.yaml")
    patches = [patch["path"] for patch in kustomization.get("patches", [])]
    named = {(CONFIGS / name / entry).resolve() for entry in (*kustomization["resources"], *patches)}
    assert all(path.exists() for path in named)
    there = {path for path in FILES if path.parent.name == name and path.name != "kustomization.yaml"}
    assert there <= named


def test_every_flag_has_its_reason_above_it() -> None:
    lines = (CONFIGS / "base" / "statefulset.yaml").read_text().splitlines()
    flags = [number for number, line in enumerate(lines) if line.strip().startswith("- --")]
    assert len(flags) > 20
    assert [lines[number].strip() for number in flags if not lines[number - 1].strip().startswith("#")] == []


def test_no_service_makes_variables_that_etcd_takes_for_settings() -> None:
    [statefulset] = documents(CONFIGS / "base" / "statefulset.yaml")
    assert statefulset["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize(("name", "members"), [("base", 1), ("three", 3)])
def test_the_initial_cluster_names_each_replica(name: str, members: int) -> None:
    file = CONFIGS / name / ("statefulset.yaml" if name == "base" else "members.yaml")
    [statefulset] = documents(file)
    assert statefulset["spec"]["replicas"] == members
    [container] = statefulset["spec"]["template"]["spec"]["containers"]
    [initial] = [entry["value"] for entry in container["env"] if entry["name"] == "INITIAL_CLUSTER"]
    assert [member.partition("=")[0] for member in initial.split(",")] == [f"etcd-{n}" for n in range(members)]
    assert "$(" not in initial, "a patch may move it before what it refers to"


@pytest.mark.parametrize("name", ["base", "three"])
def test_kustomize_builds_it(name: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    built = subprocess.run(
        ["kubectl", "kustomize", CONFIGS / name], capture_output=True, check=False, text=True, timeout=60
    )
    assert built.returncode == 0, built.stderr
    kinds = sorted(document["kind"] for document in yaml.safe_load_all(built.stdout))
    assert kinds == ["NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "StatefulSet"]
