"""What goes into the image, and the list of it. Needs no builder: the steps themselves are the Dockerfile's."""

from __future__ import annotations

import re
from importlib.metadata import distributions, version
from pathlib import Path

from tools.audit import verdict
from tools.sbom import bill, debian_components, python_components

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

STATUS = """\
Package: git
Status: install ok installed
Architecture: amd64
Version: 1:2.47.3-0+deb13u1
Description: fast, scalable
 Version: 9 is a line of the description

Package: perl
Status: deinstall ok config-files
Architecture: amd64
Version: 5.40.1-6
"""


def test_the_bill_names_each_python_distribution_with_its_version() -> None:
    listed = bill(python_components(distributions()))
    components = listed["components"]
    assert isinstance(components, list)
    purls = [each["purl"] for each in components]
    assert f"pkg:pypi/aiohttp@{version('aiohttp')}" in purls
    assert purls == sorted(set(purls))
    assert listed["metadata"] == {
        "component": {
            "type": "application",
            "bom-ref": f"pkg:pypi/cacheserver@{version('cacheserver')}",
            "name": "cacheserver",
            "version": version("cacheserver"),
            "purl": f"pkg:pypi/cacheserver@{version('cacheserver')}",
        }
    }


def test_of_debians_packages_those_are_listed_that_are_installed() -> None:
    [git] = debian_components(STATUS)
    assert (git["name"], git["version"]) == ("git", "1:2.47.3-0+deb13u1")
    assert git["purl"] == "pkg:deb/debian/git@1%3A2.47.3-0%2Bdeb13u1?arch=amd64"


def test_everything_that_the_dockerfile_copies_goes_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    ]
    bound = re.findall(r"source=([^,\s]+)", DOCKERFILE)
    assert {f"!{name}" for name in (*copied, *bound)} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in (*copied, *bound))


def test_nothing_of_the_kubernetes_client_that_we_load_is_left_out_of_the_image() -> None:
    left_out = re.findall(r"kubernetes_asyncio(?:/\w+)+", DOCKERFILE)
    assert left_out == ["kubernetes_asyncio/client/api", "kubernetes_asyncio/client/models"]
    ours = (ROOT / "cacheserver" / "cluster" / "library.py").read_text()
    assert not re.search(r"client\.(api|models)\b", ours)


def test_the_image_supposes_no_address_to_listen_on() -> None:
    assert not re.search(r"^HEALTHCHECK", DOCKERFILE, re.MULTILINE)


def test_a_known_fault_fails_the_audit_and_what_cannot_be_asked_about_is_told() -> None:
    fine = {"name": "yarl", "version": "1.25.1", "vulns": []}
    unknown = {"name": "six", "skip_reason": "not found"}
    faulty = {"name": "aiohttp", "version": "3.9.1", "vulns": [{"id": "CVE-2024-23334", "fix_versions": ["3.9.2"]}]}
    assert verdict({"dependencies": [fine]}) == (["1 of 1 packages audited, 0 known faults"], 0)
    lines, code = verdict({"dependencies": [fine, unknown, faulty]})
    assert lines[:2] == ["aiohttp 3.9.1: CVE-2024-23334, mended in 3.9.2", "2 of 3 packages audited, 1 known faults"]
    assert "NOT AUDITED" in lines[2]
    assert code == 1
