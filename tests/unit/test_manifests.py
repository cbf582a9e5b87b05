"""The manifests for a cluster: in step with the code, with each other and with the rules we set ourselves.

Needs no cluster; tests/e2e/test_kube_apiserver.py applies them to a real kube-apiserver.
"""

from __future__ import annotations

import datetime
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cacheserver import metrics
from cacheserver.api.kinds.repository import REPOSITORY
from cacheserver.api.kinds.resource import Column, Field, Type
from cacheserver.api.kinds.table import served
from cacheserver.compat.clustercatalogs.rival import DEPLOYMENT
from cacheserver.compat.rukpak.kinds import GROUP as GROUP_OF_VIEWS
from cacheserver.compat.rukpak.kinds import VERSION_IN_A_CLUSTER
from cacheserver.config import SETTINGS, check_listen, load, unknown_environment
from cacheserver.config.repositories import CATALOG_SOURCE
from cacheserver.security import certs

pytestmark = pytest.mark.processes

CONFIGS = Path(__file__).parents[2] / "configs"
KUBERNETES = CONFIGS / "kubernetes"
FILES = sorted(KUBERNETES.rglob("*.yaml"))
OVERLAYS = ("default", "production", "namespaced")
DOORS = (
    "catalogs",
    "clustercatalogs",
    "registry",
    "packagemanifests",
    "rukpak",
    "catalogsources",
)  # components that let clients of other systems in
GROUP = "config.cacheserver.dev"

# Left out of the CRD on purpose: what lies on the server's own disk is not a user's to read; archives are not read yet.
STANDALONE_ONLY = {"spec.source.directory", "spec.source.ociLayout", "spec.source.git.ref.name"}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def objects(*directories: str) -> list[dict[str, Any]]:
    """Every object under configs/kubernetes/DIRECTORY, kustomizations and patches left out."""
    found = []
    for directory in directories:
        for path in sorted((KUBERNETES / directory).glob("*.yaml")):
            found += [d for d in documents(path) if isinstance(d, dict) and d.get("kind") not in KUSTOMIZE]
    return found


KUSTOMIZE = ("Kustomization", "Component")


def one(kind: str, name: str, *directories: str) -> dict[str, Any]:
    [found] = [d for d in objects(*directories) if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


@functools.cache
def built(directory: str) -> list[dict[str, Any]]:
    """What kubectl would apply."""
    if shutil.which("kubectl") is None:
        pytest.skip("NO KUBECTL FOUND: kustomize builds of configs/kubernetes were not tested")
    ran = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / directory], capture_output=True, check=False, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_every_file_is_read_by_the_kustomization_beside_it(path: Path) -> None:
    [kustomization] = documents(path.parent / "kustomization.yaml")
    if path.name != "kustomization.yaml":
        patches = [patch.get("path") for patch in kustomization.get("patches", ())]
        assert path.name in (*kustomization.get("resources", ()), *patches)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_builds(overlay: str) -> None:
    found = built(overlay)
    identities = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in found]
    assert len(identities) == len(set(identities))
    kinds = {kind for kind, _, _ in identities}
    assert kinds >= {"Namespace", "CustomResourceDefinition", "APIService", "Deployment", "StatefulSet", "Certificate"}


def test_the_overlay_with_certificates_of_ours_builds(tmp_path: Path) -> None:
    copy = tmp_path / "configs"
    shutil.copytree(CONFIGS, copy, ignore=shutil.ignore_patterns("certificates"))
    directory = copy / "kubernetes" / "self-signed"
    now = datetime.datetime.now(datetime.UTC)
    certs.write(directory / "certificates", namespace="cacheserver", days=1, now=now)
    found = built(str(directory))
    secrets = {d["metadata"]["name"] for d in found if d["kind"] == "Secret"}
    assert secrets == {planned.secret for planned in certs.plan("cacheserver")}
    [apiservice] = [d for d in found if d["kind"] == "APIService"]
    assert apiservice["spec"]["caBundle"]
    assert apiservice["spec"]["service"]["name"] == "cacheserver"


def with_components(tmp_path: Path, *components: str) -> list[dict[str, Any]]:
    """The base with these added."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    overlay = tmp_path / "configs" / "kubernetes" / "tried"
    overlay.mkdir()
    named = ", ".join(f"../components/{component}" for component in components)
    (overlay / "kustomization.yaml").write_text(f"kind: Kustomization\nresources: [../base]\ncomponents: [{named}]\n")
    return built(str(overlay))


@pytest.mark.parametrize("component", ["monitoring", "secrets-everywhere", *DOORS])
def test_every_component_fits_the_base(component: str, tmp_path: Path) -> None:
    assert len(with_components(tmp_path, component)) > len(built("base"))


def test_no_door_is_in_what_is_installed_without_it() -> None:
    for overlay in OVERLAYS:
        [kustomization] = documents(KUBERNETES / overlay / "kustomization.yaml")
        assert not {Path(each).name for each in kustomization.get("components", ())} & set(DOORS)


def test_the_doors_together_set_what_the_server_takes(tmp_path: Path) -> None:
    found = with_components(tmp_path, *DOORS)
    [server] = [d for d in found if d["kind"] == "Deployment"]
    [container] = server["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert unknown_environment(given) == []
    for name in [name for name in given if name.endswith("_FILE")]:
        mounted = tmp_path / given[name].lstrip("/")
        mounted.parent.mkdir(parents=True, exist_ok=True)
        mounted.touch()
        given[name] = str(mounted)
    settings = load({}, given, cwd=tmp_path)
    check_listen(settings)
    namespaces = {d["metadata"]["name"] for d in found if d["kind"] == "Namespace"}
    assert settings.serving.cluster_catalogs in namespaces
    # What ClusterCatalogs name is the Service, under a name that the certificate has.
    [service] = [d for d in found if d["kind"] == "Service" and d["metadata"]["name"] == "cacheserver-catalogs"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert settings.serving.catalogs_url == f"https://{host}"
    assert {host, "localhost"} <= set(certs.plan("cacheserver")[0].subject.dns)
    assert settings.serving.catalogs_listen is not None
    [port] = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (443, settings.serving.catalogs_listen.port)
    # Each registry has its Service, named as its Repository.
    services = {d["metadata"]["name"]: d["spec"]["ports"][0] for d in found if d["kind"] == "Service"}
    for key, address in settings.registries().items():
        assert (services[key.name]["port"], services[key.name]["targetPort"]) == (50051, address.port)
    assert all(d["metadata"]["labels"]["app.kubernetes.io/part-of"] == "cacheserver" for d in found)


@pytest.mark.parametrize("component", ["catalogs", "registry"])
def test_who_is_not_asked_who_he_is_comes_from_named_namespaces_to_the_doors_port(component: str) -> None:
    found = objects(f"components/{component}")
    [policy] = [d for d in found if d["kind"] == "NetworkPolicy"]
    services = [d for d in found if d["kind"] == "Service"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    [ingress] = policy["spec"]["ingress"]
    [peer] = ingress["from"]
    [named] = peer["namespaceSelector"]["matchExpressions"]
    assert (named["key"], named["operator"]) == ("kubernetes.io/metadata.name", "In")
    [ports] = ingress["ports"]
    let_in = range(ports["port"], ports.get("endPort", ports["port"]) + 1)
    for service in services:
        for port in service["spec"]["ports"]:
            # NetworkPolicies see the pod's port, and clients that forward one take a number alone.
            assert isinstance(port["targetPort"], int)
            assert port["targetPort"] in let_in
        labels = deployment()["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
    assert policy["spec"]["podSelector"]["matchLabels"] == services[0]["spec"]["selector"]
    # The API's own port is let in from anywhere: it asks everybody who he is.
    [api] = container()["ports"]
    assert api["containerPort"] not in let_in


def test_clustercatalogs_are_read_marked_and_told_of_and_nothing_else() -> None:
    found = objects("components/clustercatalogs")
    rules = [rule for d in found if d["kind"] == "ClusterRole" for rule in d["rules"]]
    assert {(each, *rule["verbs"]) for rule in rules for each in rule["resources"]} == {
        ("clustercatalogs", "get", "list", "patch", "watch"),
        ("clustercatalogs/status", "patch", "update"),
        ("deployments", "list", "watch"),
    }
    [deployments] = [rule for rule in rules if rule["resources"] == ["deployments"]]
    assert deployments["resourceNames"] == [DEPLOYMENT]
    # Repositories are made and deleted in one namespace, by a Role.
    [role] = [d for d in found if d["kind"] == "Role"]
    assert role["metadata"]["namespace"] == "cacheserver-catalogs"
    assert [rule["resources"] for rule in role["rules"]] == [["repositories"]]
    assert {"create", "delete"} <= set(role["rules"][0]["verbs"])


def test_catalog_sources_are_read_and_told_of_and_written_by_who_may_write_repositories() -> None:
    found = objects("components/catalogsources")
    roles = {d["metadata"]["name"]: d for d in found if d["kind"] == "ClusterRole"}
    server = {
        (each, *rule["verbs"]) for rule in roles["cacheserver:catalogsources"]["rules"] for each in rule["resources"]
    }
    assert server == {
        ("catalogsources", "get", "list", "watch"),
        ("catalogsources/status", "patch", "update"),
        ("repositories", "create", "delete", "get", "list", "patch", "watch"),
    }
    writing = one("ClusterRole", "cacheserver:edit", "base")
    ours = roles["cacheserver:catalogsources-edit"]
    assert (
        ours["metadata"]["labels"].items()
        >= {name: text for name, text in writing["metadata"]["labels"].items() if name.startswith("rbac.")}.items()
    )
    [rule] = ours["rules"]
    assert rule["verbs"] in [each["verbs"] for each in writing["rules"]]


def test_views_of_rukpak_are_of_another_version_than_the_definition_of_its_catalog_sources() -> None:
    """kube-apiserver has all of a version from one place, and an APIService that somebody made wins."""
    [definition] = [d for d in objects("components/catalogsources") if d["kind"] == "CustomResourceDefinition"]
    [apiservice] = [d for d in objects("components/rukpak") if d["kind"] == "APIService"]
    [version] = definition["spec"]["versions"]
    assert f"{definition['spec']['group']}/{version['name']}" == CATALOG_SOURCE
    assert (apiservice["spec"]["group"], apiservice["spec"]["version"]) == (GROUP_OF_VIEWS, VERSION_IN_A_CLUSTER)
    assert apiservice["spec"]["version"] != version["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_namespaced_objects_name_their_namespace(overlay: str) -> None:
    cluster_wide = {"Namespace", "ClusterRole", "ClusterRoleBinding", "APIService", "CustomResourceDefinition"}
    for found in built(overlay):
        assert ("namespace" in found["metadata"]) == (found["kind"] not in cluster_wide), found["metadata"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_labelled_as_a_part_of_the_whole(overlay: str) -> None:
    for found in built(overlay):
        assert found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "cacheserver", found["metadata"]["name"]


# --- the CRD ------------------------------------------------------------------------------------------------------


def crd_version() -> dict[str, Any]:
    [version] = one("CustomResourceDefinition", f"repositories.{GROUP}", "crd")["spec"]["versions"]
    return dict(version)


def schema_fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field below, with its path; the items of an array stand for the array."""
    yield path, schema
    inner = schema.get("items", schema)
    for name, field in inner.get("properties", {}).items():
        yield from schema_fields(field, f"{path}.{name}")


def declared_fields(field: Field, path: str) -> Iterator[tuple[str, Field]]:
    if path in STANDALONE_ONLY:
        return
    yield path, field
    for inner in field.fields:
        yield from declared_fields(inner, f"{path}.{inner.name}")


def crd_fields() -> dict[str, Mapping[str, Any]]:
    properties = crd_version()["schema"]["openAPIV3Schema"]["properties"]
    return {path: f for part in ("spec", "status") for path, f in schema_fields(properties[part], part)}


DECLARED = {
    path: field
    for part in (REPOSITORY.spec, REPOSITORY.status)
    if part
    for path, field in declared_fields(part, part.name)
}
JSON_TYPES = {
    Type.STRING: ("string", None),
    Type.TIME: ("string", "date-time"),
    Type.INTEGER: ("integer", "int64"),
    Type.BOOLEAN: ("boolean", None),
    Type.OBJECT: ("object", None),
    Type.OBJECTS: ("array", None),
    Type.STRINGS: ("array", None),
}


def test_the_crd_has_the_fields_that_the_server_declares() -> None:
    assert sorted(crd_fields()) == sorted(DECLARED)


@pytest.mark.parametrize("path", sorted(DECLARED))
def test_a_field_of_the_crd_is_as_the_server_declares_it(path: str) -> None:
    field, declared = crd_fields()[path], DECLARED[path]
    assert field["description"] == declared.description
    assert (field["type"], field.get("format")) == JSON_TYPES[declared.type]
    of_strings = field["items"] if declared.type is Type.STRINGS else field
    assert tuple(of_strings.get("enum", ())) == declared.enum
    required = {inner.name for inner in declared.fields if inner.required}
    assert required <= set(field.get("items", field).get("required", ()))


def test_the_crd_says_who_it_is_as_the_server_does() -> None:
    spec = one("CustomResourceDefinition", f"repositories.{GROUP}", "crd")["spec"]
    assert (spec["group"], spec["scope"]) == (REPOSITORY.group, "Namespaced")
    assert spec["names"] == {
        "kind": REPOSITORY.kind,
        "listKind": REPOSITORY.list_kind,
        "plural": REPOSITORY.plural,
        "singular": REPOSITORY.singular,
        "shortNames": list(REPOSITORY.short_names),
        "categories": list(REPOSITORY.categories),
    }
    assert crd_version()["name"] == REPOSITORY.version
    assert [f["jsonPath"] for f in crd_version()["selectableFields"]] == [f".{path}" for path in REPOSITORY.selectable]


def test_the_crd_prints_the_columns_that_the_server_prints() -> None:
    def said(column: Column) -> tuple[str, str, str, int]:
        return column.name, "date" if column.value is None else column.type, column.description, int(column.wide)

    printed = [(c["name"], c["type"], c["description"], c.get("priority", 0)) for c in crd_columns()]
    assert printed == [said(column) for column in REPOSITORY.columns[1:]]  # the first is the name, which kube adds


def crd_columns() -> list[dict[str, Any]]:
    return list(crd_version()["additionalPrinterColumns"])


def test_every_rule_of_the_crd_says_what_is_wrong() -> None:
    schema = crd_version()["schema"]["openAPIV3Schema"]
    rules = [rule for _, field in schema_fields(schema, "") for rule in field.get("x-kubernetes-validations", ())]
    assert len(rules) > 10
    assert all(rule["message"] for rule in rules)


def test_text_that_rules_look_at_is_bounded() -> None:
    """Kubernetes refuses a rule whose cost it cannot bound."""
    for path, field in crd_fields().items():
        if field["type"] == "string" and field.get("x-kubernetes-validations"):
            assert field.get("maxLength"), path


def test_where_the_servers_settings_decide_the_crd_has_no_default() -> None:
    defaulted = {path for path, field in crd_fields().items() if "default" in field}
    assert not defaulted & {"spec.interval", "spec.validation"}
    assert "spec.format" in defaulted


# --- rights -------------------------------------------------------------------------------------------------------


def rules_of(name: str) -> list[dict[str, Any]]:
    return list(one("ClusterRole", name, "base")["rules"])


def granted(*names: str) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for name in names
        for rule in rules_of(name)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_no_right_is_a_wildcard() -> None:
    components = ("monitoring", "secrets-everywhere", *DOORS)
    for found in objects("base", "namespaced", *(f"components/{component}" for component in components)):
        for rule in found.get("rules", ()):
            assert "*" not in {value for values in rule.values() for value in values}, found["metadata"]["name"]


def test_the_server_writes_status_events_and_a_finalizer_only() -> None:
    write_verbs = granted("cacheserver:controller") - {
        (GROUP, "repositories", verb) for verb in ("get", "list", "watch")
    }
    assert {(resource, verb) for _, resource, verb in write_verbs} == {
        ("repositories", "patch"),  # cluster/parting.py
        ("repositories/status", "get"),
        ("repositories/status", "patch"),
        ("repositories/status", "update"),
        ("events", "create"),
        ("events", "patch"),
    }


def test_secrets_are_read_one_by_one_and_only_where_that_is_bound() -> None:
    assert granted("cacheserver:secrets") == {("", "secrets", "get")}
    bound = [d["roleRef"]["name"] for d in objects("base") if d["kind"] in ("ClusterRoleBinding", "RoleBinding")]
    assert "cacheserver:secrets" not in bound


def test_view_reads_every_kind_that_is_served_and_its_parts() -> None:
    for row in (*served(standalone=False), REPOSITORY):
        subs = [sub.name for sub in row.subresources if "get" in sub.verbs and not sub.whole]
        parts = [row.plural, *(f"{row.plural}/{sub}" for sub in subs)]
        verb = "create" if row.virtual else "get"
        assert {(row.group, part, verb) for part in parts} <= granted("cacheserver:view")
    reads = {verb for _, part, verb in granted("cacheserver:view") if part != "packagesearches"}
    assert reads == {"get", "list", "watch"}


def test_nobody_is_given_write_verbs_on_read_only_kinds() -> None:
    written = granted("cacheserver:edit", "cacheserver:admin")
    assert {(group, resource) for group, resource, _ in written} == {(GROUP, "repositories")}


def test_who_writes_decides_and_judges_has_every_verb_of_that_and_none_of_the_others() -> None:
    authors, approvers = granted("cacheserver:author"), granted("cacheserver:approver")
    validators = {right for right in granted("cacheserver:validator") if right[2] not in ("get", "list", "watch")}
    # kubectl knows no subresource approval, so approvers patch the object.
    assert {right[1:] for right in authors & approvers} == {("packagerevisions", verb) for verb in ("patch", "update")}
    assert not validators & (authors | approvers | granted("cacheserver:edit", "cacheserver:admin"))
    whose = {"approval": approvers, "status": validators}
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    for row in served(standalone=False):
        if row.virtual:
            continue  # who views creates it
        for sub in ("", *(each.name for each in row.subresources)):
            part = f"{row.plural}/{sub}" if sub else row.plural
            wanted = {(row.group, part, verb) for verb in row.verbs_of(sub) if verb in writes}
            assert wanted <= whose.get(sub, authors), part


def test_roles_are_added_to_the_clusters_own() -> None:
    def aggregated(name: str) -> set[str]:
        labels = one("ClusterRole", f"cacheserver:{name}", "base")["metadata"]["labels"]
        return {
            label.rpartition("-to-")[2] for label, value in labels.items() if "aggregate" in label and value == "true"
        }

    assert aggregated("view") == {"view", "edit", "admin"}
    assert aggregated("edit") == {"edit", "admin"}
    assert aggregated("admin") == {"admin"}
    assert aggregated("author") == {"edit", "admin"}
    assert aggregated("approver") == {"admin"}
    assert aggregated("validator") == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_binding_leads_from_an_account_to_a_role(overlay: str) -> None:
    found = built(overlay)
    roles = {d["metadata"]["name"] for d in found if d["kind"] == "ClusterRole"}
    kubernetes_own = {"system:auth-delegator", "extension-apiserver-authentication-reader"}
    bindings = [d for d in found if d["kind"] in ("ClusterRoleBinding", "RoleBinding")]
    for binding in bindings:
        assert binding["roleRef"]["name"] in roles | kubernetes_own
        assert [subject["kind"] for subject in binding["subjects"]] == ["ServiceAccount"]
    assert {b["roleRef"]["name"] for b in bindings} >= kubernetes_own


def test_a_namespaced_installation_has_no_right_over_repositories_elsewhere() -> None:
    wide = {d["roleRef"]["name"] for d in built("namespaced") if d["kind"] == "ClusterRoleBinding"}
    assert wide == {"system:auth-delegator", "cacheserver:server"}


def test_a_namespaced_installation_watches_where_it_has_rights() -> None:
    bound = {d["metadata"]["namespace"] for d in built("namespaced") if d["kind"] == "RoleBinding"} - {"kube-system"}
    assert set(environment("namespaced")["CACHESERVER_WATCH_NAMESPACES"].split(",")) == bound


# --- the server ---------------------------------------------------------------------------------------------------


def deployment(overlay: str = "") -> dict[str, Any]:
    if not overlay:
        return one("Deployment", "cacheserver", "base")
    [found] = [d for d in built(overlay) if d["kind"] == "Deployment"]
    return found


def pod(overlay: str = "") -> dict[str, Any]:
    return dict(deployment(overlay)["spec"]["template"]["spec"])


def container(overlay: str = "") -> dict[str, Any]:
    [found] = pod(overlay)["containers"]
    return dict(found)


def environment(overlay: str = "") -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(overlay)["env"]}


def test_every_setting_has_its_reason_above_it() -> None:
    lines = (KUBERNETES / "base" / "deployment.yaml").read_text().splitlines()
    named = [number for number, line in enumerate(lines) if line.strip().startswith("- name: CACHESERVER_")]
    assert len(named) == len(environment())
    assert [lines[number].strip() for number in named if not lines[number - 1].strip().startswith("#")] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting_with_a_value_it_takes(overlay: str, tmp_path: Path) -> None:
    assert container(overlay)["args"] == ["serve"]
    given = environment(overlay)
    assert unknown_environment(given) == []
    for name in [name for name in given if name.endswith("_FILE")]:
        mounted = tmp_path / given[name].lstrip("/")
        mounted.parent.mkdir(parents=True, exist_ok=True)
        mounted.touch()
        given[name] = str(mounted)
    settings = load({}, given, cwd=tmp_path)
    check_listen(settings)
    assert settings.from_cluster


def test_the_files_that_settings_name_are_in_the_secrets_mounted_there() -> None:
    volumes = {v["name"]: v["secret"]["secretName"] for v in pod()["volumes"] if "secret" in v}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in container()["volumeMounts"] if m["name"] in volumes}
    files = [Path(value) for name, value in environment().items() if name.endswith("_FILE")]
    assert len(files) == 5
    for file in files:
        assert mounts[str(file.parent)] in {planned.secret for planned in certs.plan("cacheserver")}
        assert file.name in ("ca.crt", "tls.crt", "tls.key")


def test_production_names_each_member_of_etcd() -> None:
    [statefulset] = [d for d in built("production") if d["kind"] == "StatefulSet"]
    assert environment("production")["CACHESERVER_ETCD"].split(",") == [
        f"https://etcd-{n}.etcd-peers.cacheserver.svc:2379" for n in range(statefulset["spec"]["replicas"])
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_pass_the_restricted_standard_with_a_read_only_root(overlay: str) -> None:
    """Kubernetes, Pod Security Standards: restricted. A read-only root is ours."""
    for workload in [d for d in built(overlay) if d["kind"] in ("Deployment", "StatefulSet")]:
        spec = workload["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"]:
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["requests"]
            assert each["resources"]["limits"]["memory"]
            assert "cpu" not in each["resources"]["limits"]


def test_the_pod_runs_as_the_image_does() -> None:
    dockerfile = (CONFIGS.parent / "Dockerfile").read_text()
    user = pod()["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in dockerfile
    [data] = re.findall(r"CACHESERVER_DATA_DIR=(\S+)", dockerfile)
    writable = {v["name"] for v in pod()["volumes"] if "emptyDir" in v}
    assert {m["mountPath"] for m in container()["volumeMounts"] if m["name"] in writable} == {data, "/tmp"}


def test_scratch_space_is_bounded_and_within_the_pods_limit() -> None:
    sizes = [v["emptyDir"]["sizeLimit"] for v in pod()["volumes"] if "emptyDir" in v]
    total = sum(int(size.removesuffix("Gi")) for size in sizes)
    assert total < int(container()["resources"]["limits"]["ephemeral-storage"].removesuffix("Gi"))


def test_a_server_that_starts_slowly_is_not_taken_for_one_that_hangs() -> None:
    """On a node that is short of processors a start took 80 s, and each restart began anew."""
    probe = container()["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300
    assert probe["periodSeconds"] <= 2  # no probe of readiness before it


def test_probes_ask_over_tls_on_the_port_that_is_listened_on() -> None:
    [port] = container()["ports"]
    assert environment()["CACHESERVER_LISTEN"].endswith(f":{port['containerPort']}")
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = container()[probe]["httpGet"]
        assert asked == {"path": path, "port": port["name"], "scheme": "HTTPS"}


def test_the_pod_has_time_to_stop() -> None:
    grace_s = next(float(s.default.removesuffix("s")) for s in SETTINGS if s.flag == "--shutdown-grace")
    pause_s = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause_s + grace_s + 5 <= pod()["terminationGracePeriodSeconds"]


def test_one_replica_is_left_at_any_time() -> None:
    assert deployment()["spec"]["replicas"] >= 2
    assert deployment()["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert one("PodDisruptionBudget", "cacheserver", "base")["spec"]["maxUnavailable"] == 1


def test_selectors_select_the_servers_pods_and_not_etcds() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one("Service", "cacheserver", "base")["spec"]["selector"],
        one("PodDisruptionBudget", "cacheserver", "base")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy", "cacheserver", "base")["spec"]["podSelector"]["matchLabels"],
        deployment()["spec"]["selector"]["matchLabels"],
        *(c["labelSelector"]["matchLabels"] for c in pod()["topologySpreadConstraints"]),
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    [etcds] = documents(CONFIGS / "etcd" / "base" / "statefulset.yaml")
    assert not selectors[0].items() <= etcds["spec"]["template"]["metadata"]["labels"].items()
    [policy] = documents(CONFIGS / "etcd" / "base" / "network.yaml")
    admitted = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert admitted.items() <= labels.items()


def test_the_apiservice_leads_to_the_service_without_skipping_verification() -> None:
    spec = one("APIService", "v1alpha1.cacheserver.dev", "base")["spec"]
    service = one("Service", "cacheserver", "base")
    assert spec["service"]["name"] == service["metadata"]["name"]
    assert spec["service"]["namespace"] == service["metadata"]["namespace"]
    assert spec["service"]["port"] == service["spec"]["ports"][0]["port"]
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container()["ports"]}
    assert "insecureSkipTLSVerify" not in spec
    [row, *_] = served(standalone=False)
    assert (spec["group"], spec["version"]) == (row.group, row.version)


# --- certificates -------------------------------------------------------------------------------------------------


def test_cert_manager_makes_what_the_command_makes() -> None:
    made = {
        d["spec"]["secretName"]: d["spec"]
        for d in objects("components/cert-manager")
        if d["kind"] == "Certificate" and not d["spec"].get("isCA")
    }
    planned = certs.plan("cacheserver")
    assert set(made) == {each.secret for each in planned}
    for each in planned:
        spec = made[each.secret]
        assert tuple(spec.get("dnsNames", ())) == each.subject.dns
        assert tuple(spec.get("ipAddresses", ())) == each.subject.addresses
        assert spec["issuerRef"]["name"] == each.authority
        roles = {certs.Usage.SERVER: {"server auth"}, certs.Usage.CLIENT: {"client auth"}}
        assert set(spec["usages"]) - {"digital signature"} == roles.get(
            each.subject.usage, {"server auth", "client auth"}
        )


def test_every_issuer_has_its_authority() -> None:
    found = objects("components/cert-manager")
    authorities = {d["spec"]["secretName"] for d in found if d["kind"] == "Certificate" and d["spec"].get("isCA")}
    signers = {d["metadata"]["name"]: d["spec"] for d in found if d["kind"] == "Issuer"}
    assert {spec["ca"]["secretName"] for spec in signers.values() if "ca" in spec} == authorities
    assert {d["spec"]["issuerRef"]["name"] for d in found if d["kind"] == "Certificate"} == set(signers)


def test_the_injected_bundle_is_the_serving_certificates() -> None:
    patch = one("APIService", "v1alpha1.cacheserver.dev", "components/cert-manager")
    namespace, name = patch["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].split("/")
    certificate = one("Certificate", name, "components/cert-manager")
    assert certificate["metadata"]["namespace"] == namespace
    assert certificate["spec"]["secretName"] == "cacheserver-serving-tls"


# --- monitoring ---------------------------------------------------------------------------------------------------

# Exported by others: kube-apiserver, etcd, cert-manager and Prometheus itself.
FOREIGN_METRICS = {
    "aggregator_unavailable_apiservice",
    "certmanager_certificate_expiration_timestamp_seconds",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_server_has_leader",
    "etcd_server_quota_backend_bytes",
    "up",
}


def alerts() -> list[dict[str, Any]]:
    groups = one("PrometheusRule", "cacheserver", "components/monitoring")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_says_what_happens_and_what_to_do() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names))
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}, alert["alert"]
        assert re.fullmatch(r"[0-9]+[mh]", alert["for"])


def test_every_alert_asks_for_metrics_that_exist() -> None:
    ours = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry().collect()}
    for alert in alerts():
        asked = set(re.findall(r"\b([a-z_]+)\{", alert["expr"]))
        assert asked, alert["alert"]
        assert asked <= ours | FOREIGN_METRICS, alert["alert"]


def test_metrics_are_scraped_over_tls_that_is_verified() -> None:
    [endpoint] = one("ServiceMonitor", "cacheserver", "components/monitoring")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert "insecureSkipVerify" not in endpoint["tlsConfig"]
    serving = certs.plan("cacheserver")[0]
    assert endpoint["tlsConfig"]["serverName"] in serving.subject.dns
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == serving.secret
