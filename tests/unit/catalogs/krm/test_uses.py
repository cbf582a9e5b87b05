"""Which kinds a package uses and does not bring: by its lines, at the cost of a search."""

from __future__ import annotations

import pytest

from cacheserver.catalogs.krm import uses


def found(content: bytes, path: str = "a.yaml", provided: frozenset[tuple[str, str, str]] = frozenset()) -> list[str]:
    return [".".join((kind, version, group)) for group, version, kind in uses.required([(path, content)], provided)]


MONITOR = b"apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {name: a}\n"
EXPECTED = ["ServiceMonitor.v1.monitoring.coreos.com"]


@pytest.mark.parametrize(
    "content",
    [
        MONITOR,
        MONITOR.replace(b"\n", b"\r\n"),
        b"# a note\n---\n" + MONITOR + b"---\n" + MONITOR,
        b"kind: 'ServiceMonitor'  # it\nmetadata:\n  kind: Other\napiVersion: \"monitoring.coreos.com/v1\"",
        b"apiVersion: v1\nkind: Secret\n--- # two\n" + MONITOR + b"---\nkind: Orphan\n---\napiVersion: orphan.io/v1\n",
        b'{"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor"}',
        MONITOR + b"spec:\n  text: |\n    apiVersion: other.io/v1\n    kind: Other\n",
        MONITOR + b"  config.kubernetes.io/local-config: 'false'\n",
    ],
)
def test_a_kind_is_found_however_it_is_written(content: bytes) -> None:
    assert found(content) == EXPECTED


@pytest.mark.parametrize(
    "content",
    [
        b"apiVersion: apps/v1\nkind: Deployment\n",
        b"apiVersion: v1\nkind: Service\n",
        b"apiVersion: networking.k8s.io/v1\nkind: Ingress\n",
        b"apiVersion: kpt.dev/v1\nkind: Kptfile\n",
        MONITOR + b'  annotations:\n    config.kubernetes.io/local-config: "true"\n',
        b"apiVersion: monitoring.coreos.com/v1\nkind: [ServiceMonitor]\n",
        b"apiVersion: monitoring.coreos.com\nkind: ServiceMonitor\n",
        b"apiVersion: Monitoring/v1\nkind: servicemonitor\n",
        b'{"apiVersion": "monitoring.coreos.com/v1"',
        b'{"apiVersion": ["monitoring.coreos.com/v1"], "kind": {}}',
        b"\xff\xfe apiVersion",
    ],
)
def test_what_needs_nobody_is_not_listed(content: bytes) -> None:
    assert found(content) == []


def test_what_it_brings_itself_it_does_not_need() -> None:
    assert found(MONITOR, provided=frozenset({("monitoring.coreos.com", "v1", "ServiceMonitor")})) == []
    assert found(MONITOR, provided=frozenset({("monitoring.coreos.com", "v2", "ServiceMonitor")})) == EXPECTED


def test_only_manifests_are_looked_at() -> None:
    assert found(MONITOR, "README.md") == []


def test_a_snapshot_class_is_no_kind_of_kubernetes() -> None:
    content = b"apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\n"
    assert found(content) == ["VolumeSnapshotClass.v1.snapshot.storage.k8s.io"]


@pytest.mark.parametrize("line", [b" " * 4_000_000, b"apiVersion:" + b" " * 4_000_000, b"kind: " + b"a" * 4_000_000])
def test_one_long_line_is_gone_through_once(line: bytes) -> None:
    assert found(MONITOR + line) == EXPECTED
