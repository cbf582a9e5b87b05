"""Exports of a whole server are catalogs: ours and operator-registry's validators take them, and their images are those
that /images lists. Of real catalogs where the folder `shared` is next to the repository, else of the examples."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.e2e.conftest import StartServer
from tests.support.asking import RefusedError, take
from tests.support.odd_catalog import write
from tests.support.olm import OPM
from tests.support.server import API, ServerProcess, run_cli
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

SHARED = Path(__file__).parents[3] / "shared" / "data" / "fbc"
EXAMPLES = Path(__file__).parents[2] / "examples" / "catalogs"
REPOSITORIES = "/apis/config.cacheserver.dev/v1alpha1/repositories"
ROOTS = [SHARED / "community-v4.20", SHARED / "gatekeeper" / "catalog-4-19"] if SHARED.is_dir() else [EXAMPLES]


def questions(package: Any, revisions: list[Any]) -> Iterator[dict[str, str]]:
    """All of it; the channel that is last by name; from one in the middle on, and from the default head on."""
    yield {}
    channels = [each["name"] for each in package["status"]["channels"]]
    yield {"channel": max(channels)}
    of_package = [one for one in revisions if one["spec"]["packageName"] == package["spec"]["packageName"]]
    middle = of_package[len(of_package) // 2]["metadata"]["name"]
    yield {"from": middle}
    head = next(each for each in package["status"]["channels"] if each["name"] == package["status"]["defaultChannel"])
    yield {"channel": head["name"], "from": head["headVersion"]}


def synced(repository: Any) -> bool:
    return bool(repository.get("status", {}).get("packages"))


def exported(server: ServerProcess, name: str, query: dict[str, str]) -> bytes | None:
    """None where no default channel is left, which is refused by name."""
    path = f"{API}/namespaces/default/packages/{quote(name)}"
    try:
        found = take(f"{server.url}{path}/export?{urlencode(query)}").body
    except RefusedError as exc:
        if "a catalog needs one" not in str(exc):
            raise
        return None
    documents = [json.loads(line) for line in found.splitlines()]
    bundles = [each for each in documents if each["schema"] == "olm.bundle"]
    images = {image["image"] for each in bundles for image in each.get("relatedImages") or ()}
    images |= {each["image"] for each in bundles if each.get("image")}
    assert server.get(f"{path}/images?{urlencode(query)}")["status"]["images"] == sorted(images - {""}), (name, query)
    return found


def test_what_is_exported_is_a_valid_catalog_with_the_images_that_are_listed(
    start_server: StartServer, tmp_path: Path
) -> None:
    write(tmp_path / "odd")
    roots = {f"c{at}": root for at, root in enumerate([*ROOTS, tmp_path / "odd"])}
    server = start_server(*(f"--catalog={name}={root}" for name, root in roots.items()))
    until(lambda: sum(map(synced, server.get(REPOSITORIES)["items"])) == len(roots), within_s=60)
    refused = 0
    written: set[Path] = set()
    revisions = server.list("packagerevisions")["items"]
    packages = server.list("packages")["items"]
    for package in packages[:: 1 + len(packages) // 20]:  # of many a sample: each is asked for eight times
        repository, name = package["spec"]["repository"], package["metadata"]["name"]
        own = [one for one in revisions if one["spec"]["repository"] == repository]
        for at, query in enumerate(questions(package, own)):
            found = exported(server, name, query)
            if found is None:
                refused += 1
                assert "from" in query
                continue
            into = tmp_path / "exports" / str(at) / package["spec"]["packageName"]
            into.mkdir(parents=True)
            (into / "catalog.json").write_bytes(found)
            written.add(into.parent)
    assert refused <= len(revisions) // 50
    assert len(written) == 4
    for directory in sorted(written):
        done = run_cli("validate", str(directory), cwd=tmp_path)
        assert done.returncode == 0, (directory, done.stdout)
        if opm := os.environ.get(OPM):
            done = subprocess.run([opm, "validate", str(directory)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (directory, done.stderr)
