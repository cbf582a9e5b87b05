"""`production` on one node: what is left reads and writes on, whichever of its pods is gone.

Its certificates are made by `cacheserver certs`; cert-manager's and the Prometheus operator's kinds are there, and
nobody who serves them.
"""

from __future__ import annotations

import pytest

from tests.support.installed import Installed, Reader
from tests.support.node import NAME

pytestmark = [pytest.mark.node, pytest.mark.parametrize("overlay", ["production"], indirect=True)]


def test_reads_and_writes_go_on_whichever_member_or_replica_is_gone(production: Installed) -> None:
    members = [pod["metadata"]["name"] for pod in production.pods("etcd")]
    assert len(members) == 3
    with Reader(production) as reader:
        for name in (*members, production.pods("cacheserver")[0]["metadata"]["name"]):
            production.admin.run("cordon", NAME)  # its successor has nowhere to run
            production.admin.run("-n", "cacheserver", "delete", "pod", name, timeout_s=120)
            production.draft(f"without-{name}")
            reader.go_on()
            production.admin.run("uncordon", NAME)
            production.settle()
    assert reader.failed == []
