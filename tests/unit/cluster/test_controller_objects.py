"""What a cluster's Repository object asks for, and what it is refused. One set of rules with manifests in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cacheserver.config import (
    Defaults,
    Door,
    Flags,
    GitSource,
    OCISource,
    RepositoryConfig,
    Validation,
    from_cluster,
    load,
)
from cacheserver.config.repositories import from_path
from cacheserver.errors import ConfigError
from cacheserver.model import Format, RepositoryKey

pytestmark = pytest.mark.processes

IMAGE = "registry.example.com/team/catalog:v1"


def repository(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """As kube-apiserver shows it."""
    return {
        "apiVersion": "config.cacheserver.dev/v1alpha1",
        "kind": "Repository",
        "metadata": {"name": "c", "namespace": "team", "uid": "u-1", "generation": 3, "resourceVersion": "7"}
        | metadata,
        "spec": spec,
    }


def read(spec: dict[str, Any], **metadata: Any) -> RepositoryConfig:
    return from_cluster(repository(spec, **metadata), Defaults())


OCI: dict[str, Any] = {"oci": {"image": IMAGE}}


def test_an_object_says_what_a_manifest_in_a_file_says(tmp_path: Path) -> None:
    spec = {
        "source": {"oci": {"image": IMAGE, "insecure": True}},
        "format": "FBC",
        "interval": "1h30m",
        "suspend": True,
        "validation": "Strict",
        "publish": ["Registry", "Catalog"],
    }
    manifest = repository(spec)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(manifest))
    [from_file] = from_path(tmp_path, Defaults())
    config = read(spec)
    assert config.spec_json() == from_file.spec_json()
    assert config.key == from_file.key == RepositoryKey("team", "c")
    assert (config.source, config.format, config.interval_s) == (OCISource(IMAGE, insecure=True), Format.FBC, 5400)
    assert (config.suspend, config.validation) == (True, Validation.STRICT)
    assert config.publish == from_file.publish == {Door.CATALOG, Door.REGISTRY}


def test_an_object_brings_its_owner_generation_and_secrets() -> None:
    config = read({"source": OCI, "secretRef": {"name": "pull"}, "caSecretRef": {"name": "ca.team"}})
    assert (config.uid, config.generation, config.secret, config.ca_secret) == ("u-1", 3, "pull", "ca.team")


def test_where_an_object_is_silent_the_settings_decide() -> None:
    defaults = Defaults(interval_s=77, validation=Validation.STRICT, allow_empty=True)
    config = from_cluster(repository({"source": OCI}), defaults)
    assert (config.interval_s, config.validation, config.allow_empty) == (77, Validation.STRICT, True)


def test_only_annotations_of_ours_count_so_that_others_ask_for_no_sync() -> None:
    annotations = {"cacheserver.dev/requestedAt": "now", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    config = read({"source": OCI}, annotations=annotations, labels={"team": "a"}, managedFields=[{"manager": "k"}])
    assert (config.annotations, config.labels) == ({"cacheserver.dev/requestedAt": "now"}, {})
    assert read({"source": OCI}, annotations={"cacheserver.dev/allow-empty": "true"}).allow_empty


def test_git_in_a_cluster_is_https_or_ssh() -> None:
    config = read({"source": {"git": {"url": "https://git.example.com/a.git", "ref": {"branch": "main"}}}})
    assert isinstance(config.source, GitSource)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"source": {"directory": {"path": "/etc"}}}, r"spec\.source: .*standalone only"),
        ({"source": {"ociLayout": {"path": "/etc"}}}, r"spec\.source: .*standalone only"),
        ({"source": {"git": {"url": "file:///etc"}}}, r"spec\.source: .*standalone only"),
        ({"source": {"git": {"url": "https://u:p@h/a"}}}, r"spec\.source\.git\.url: .*user or password"),
        ({"source": {"oci": {"image": "NO SUCH"}}}, r"spec\.source\.oci\.image: "),
        ({"source": {}}, r"spec\.source: a source is exactly one of"),
        ({"source": OCI | {"git": {"url": "https://h/a"}}}, r"spec\.source: a source is exactly one of"),
        ({}, r"spec: has no source"),
        ({"source": OCI, "interval": "5s"}, r"spec\.interval: .*out of range"),
        ({"source": OCI, "interval": 10}, r"spec\.interval: .*not a duration"),
        ({"source": OCI, "suspend": "perhaps"}, r"spec\.suspend: "),
        ({"source": OCI, "format": "Zip"}, r"spec\.format: "),
        ({"source": OCI, "formatt": "FBC"}, r"spec: unknown key 'formatt'; did you mean 'format'"),
        ({"source": OCI, "publish": ["Window"]}, r"spec\.publish: 'Window' is none of: Catalog, Registry, Pack"),
        ({"source": OCI, "publish": ["Catalog", "catalog"]}, r"spec\.publish: Catalog is named twice"),
        ({"source": OCI, "publish": {"Catalog": True}}, r"spec\.publish: a list is needed here"),
        ({"source": OCI, "publish": [["Catalog"]]}, r"spec\.publish: a single value is needed here"),
        ({"source": OCI, "publish": ["Catalog"], "format": "KRM"}, r"spec\.publish: only file-based catalogs"),
        ({"source": OCI, "secretRef": {"name": "../../nodes"}}, r"spec\.secretRef\.name: .*not a name of a Secret"),
        ({"source": OCI, "secretRef": {}}, r"spec\.secretRef: has no name"),
        ({"source": [OCI]}, r"spec\.source: .*where keys are needed"),
        ({"source": None}, r"spec\.source: .*where keys are needed"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        read(spec)
    assert "u:p" not in str(refused.value)


def test_a_name_that_packages_cannot_begin_with_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"metadata\.name: .*no dots"):
        read({"source": OCI}, name="a.b")


def test_nesting_without_end_is_refused() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ConfigError, match="nested too deeply"):
        read({"source": deep})


# --- where the repositories come from ---------------------------------------------------------------------------------


def settings(**flags: str) -> Flags:
    return {f"--{name.replace('_', '-')}": text for name, text in flags.items()}


def test_in_a_cluster_repositories_are_its_objects_unless_some_are_named(tmp_path: Path) -> None:
    inside = settings(kubernetes="in-cluster")
    assert load(inside, {}, cwd=tmp_path).from_cluster
    assert not load({}, {}, cwd=tmp_path).from_cluster
    assert not load({**inside, "--catalog": [f"c={tmp_path}"]}, {}, cwd=tmp_path).from_cluster


def test_namespaces_to_watch_are_named_once_each(tmp_path: Path) -> None:
    flags = settings(kubernetes="in-cluster", watch_namespaces="team, other,team")
    assert load(flags, {}, cwd=tmp_path).content.watch_namespaces == ("team", "other")
    environ = {"CACHESERVER_WATCH_NAMESPACES": "team,other", "CACHESERVER_KUBERNETES": "in-cluster"}
    assert load({}, environ, cwd=tmp_path).content.watch_namespaces == ("team", "other")
    assert load(settings(kubernetes="in-cluster"), {}, cwd=tmp_path).content.watch_namespaces == ()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"watch_namespaces": "team"}, "needs --kubernetes"),
        ({"watch_namespaces": "team", "kubernetes": "in-cluster", "catalog": "c=/x"}, "neither --catalog"),
        ({"watch_namespaces": "Team", "kubernetes": "in-cluster"}, "not a namespace"),
        ({"watch_namespaces": ",".join(f"n{n}" for n in range(51)), "kubernetes": "in-cluster"}, "more than 50"),
    ],
)
def test_namespaces_that_cannot_be_watched_are_refused(flags: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load(settings(**flags), {}, cwd=tmp_path)
