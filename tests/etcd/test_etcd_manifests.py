"""The manifests of the dedicated etcd: well formed, in step with each other, every flag explained and known to etcd."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cacheserver.errors import Unavailable
from cacheserver.etcd.client import Client, TLSFiles
from cacheserver.etcd.version import Version
from tests.support.certificates import Authority
from tests.support.etcd import FoundEtcd, free_ports
from tests.support.waiting import eventually

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


# --- the flags, by a real etcd ---


def flags() -> list[str]:
    [statefulset] = documents(CONFIGS / "base" / "statefulset.yaml")
    return list(statefulset["spec"]["template"]["spec"]["containers"][0]["args"])


def of_the_3_5_line(given: list[str]) -> list[str]:
    """As configs/etcd/README.md says, under Versions."""
    rows = re.findall(
        r"^\| `(--[^`]+)` \| (?:`(--[^`]+)`|nothing.*) \|$", (CONFIGS / "README.md").read_text(), re.MULTILINE
    )
    instead = {new: old.split() for new, old in rows}
    assert set(instead) <= set(given)
    return [flag for each in given for flag in instead.get(each, [each])]


async def test_etcd_starts_with_these_flags_and_serves(etcd_binary: FoundEtcd, tmp_path: Path) -> None:
    if etcd_binary.version < Version(3, 5, 18):
        pytest.skip(f"etcd {etcd_binary.version} does not know them")
    authority = Authority(tmp_path / "authority")
    server, client = authority.issue("etcd"), authority.issue("cache")
    for role in ("server", "peer"):
        directory = tmp_path / role
        directory.mkdir()
        for name, source in zip(("ca.crt", "tls.crt", "tls.key"), (authority.certificate, *server), strict=True):
            (directory / name).symlink_to(source)
    listening = dict(zip(("2379", "2380", "2381", "2382"), map(str, free_ports(4)), strict=True))
    given = flags() if etcd_binary.version >= Version(3, 6, 0) else of_the_3_5_line(flags())
    given = [
        re.sub(r":(238\d|2379)", lambda port: ":" + listening[port[1]], flag)
        .replace("$(INITIAL_CLUSTER)", f"etcd-0=https://localhost:{listening['2380']}")
        .replace("$(POD_NAME).etcd-peers.$(NAMESPACE).svc", "localhost")
        .replace("$(POD_NAME)", "etcd-0")
        .replace("0.0.0.0", "127.0.0.1")
        .replace("/var/lib/etcd", str(tmp_path))
        .replace("/etc/etcd", str(tmp_path))
        for flag in flags_without_quota(given)
    ]
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen([etcd_binary.path, *given], stdout=log, stderr=log, cwd=tmp_path, env={})
    try:
        tls = TLSFiles(authority.certificate, *client)
        async with Client([f"https://localhost:{listening['2379']}"], tls=tls) as etcd:

            async def answers() -> bool:
                assert child.poll() is None, (tmp_path / "log").read_text()[-2000:]
                try:
                    return await etcd.put(b"a", b"1") > 0
                except Unavailable:
                    return False

            await eventually(answers, within_s=30)
            assert (await etcd.range(b"a")).count == 1
            assert await etcd.connect() == etcd_binary.version
    finally:
        child.kill()
        child.wait()


def flags_without_quota(given: list[str]) -> list[str]:
    """A file of 8 GiB is mapped at once, which a test's machine may not allow."""
    return [flag for flag in given if not flag.startswith("--quota-backend-bytes")]
