"""One node for all tests here, with everything installed on it. Minutes, and a machine's root.

Every test leaves the cluster serving; those that hurt it wait for that at their end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.test_manifest_schemas import definitions
from tests.support.installed import Installed, shown
from tests.support.node import Node, find_node


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    found = find_node()
    if isinstance(found, list):
        pytest.skip(f"NO NODE, for want of: {'; '.join(found)}")
    node = Node(found, tmp_path_factory.mktemp("node"))
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="session")
def overlay(request: pytest.FixtureRequest) -> str:
    """What is installed on the node: a test that wants another one than that of most has this parametrized, indirectly,
    and what was there is uninstalled first."""
    wanted: str = getattr(request, "param", "self-signed")
    return wanted


@pytest.fixture(scope="session")
def fresh(node: Node, overlay: str, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Nothing yet but a checkout."""
    assert overlay == "self-signed"
    installed = Installed(node, tmp_path_factory.mktemp("checkout"))
    installed.prepare()
    return installed


@pytest.fixture(scope="session")
def typed(fresh: Installed) -> str:
    """docs/cluster.md, Install, without cert-manager, word for word; what it printed."""
    [first, second] = shown(fresh.home / "docs" / "cluster.md", "## Install")
    apply, _, rest = first.partition("\n")
    assert apply == "kubectl apply -k configs/kubernetes/default"
    return fresh.type(second + rest)


@pytest.fixture(scope="session")
def installed(fresh: Installed, typed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """With doors, a git server, and the Repositories community, blueprints and edge in namespace packages.

    In the end it is uninstalled as it is written, and nothing may stay.
    """
    assert typed
    fresh.add_doors()
    fresh.add_git(tmp_path_factory.mktemp("bundles"))
    fresh.add_repositories()
    yield fresh
    fresh.uninstall()


@pytest.fixture(scope="session")
def production(node: Node, overlay: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Three members of etcd and two servers, and the same Repositories. Uninstalled as the other one."""
    assert overlay == "production"
    kinds = definitions()
    installed = Installed(node, tmp_path_factory.mktemp("production"))
    installed.prepare(members=3)
    installed.add_production(kinds.values())
    installed.add_git(tmp_path_factory.mktemp("bundles"))
    installed.add_repositories()
    yield installed
    installed.uninstall()
