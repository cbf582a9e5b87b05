"""The connection to the host cluster: credentials that are renewed, answers that are not answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from cacheserver.cluster.kubeapi import KubeAPI
from cacheserver.errors import ConfigError, KubernetesError, KubernetesExpired, KubernetesUnavailable
from tests.fakes.guarded import PKI, Clock
from tests.fakes.kube import SERVICE_TOKEN, KubeStandIn

pytestmark = pytest.mark.processes

SECRETS = "/api/v1/namespaces/team/secrets"


@pytest.fixture
async def kube(pki: PKI) -> AsyncIterator[KubeStandIn]:
    async with KubeStandIn(pki.serving) as kube:
        yield kube


async def test_credentials_are_read_again_after_a_refusal(kube: KubeStandIn, tmp_path: Path) -> None:
    path = kube.kubeconfig(tmp_path)
    good = path.read_text()
    path.write_text(good.replace(SERVICE_TOKEN, "outdated"))
    clock = Clock(0)
    async with KubeAPI(path, clock) as api:
        path.write_text(good)
        for _ in range(2):  # at most once a minute
            with pytest.raises(KubernetesError, match="401"):
                await api.get(SECRETS)
        clock.now += 61
        assert (await api.get(SECRETS))["items"] == []


async def test_a_ca_that_changed_is_read_again(kube: KubeStandIn, pki: PKI, tmp_path: Path) -> None:
    path = kube.kubeconfig(tmp_path)
    good = path.read_text()
    path.write_text(good.replace(str(pki.serving.certificate), str(pki.client.certificate)))
    clock = Clock(0)
    async with KubeAPI(path, clock) as api:
        path.write_text(good)
        with pytest.raises(KubernetesUnavailable, match="certificate verify failed"):
            await api.get(SECRETS)
        clock.now += 61
        assert (await api.get(SECRETS))["items"] == []


async def test_a_kubeconfig_that_broke_leaves_the_old_credentials(kube: KubeStandIn, tmp_path: Path) -> None:
    path = kube.kubeconfig(tmp_path)
    clock = Clock(0)
    async with KubeAPI(path, clock) as api:
        path.write_text("{")
        kube.refuse(401)
        with pytest.raises(KubernetesError):
            await api.get(SECRETS)
        kube.refuse(0)
        clock.now += 61
        assert (await api.get(SECRETS))["items"] == []


async def test_where_no_proxy_is_named_no_call_looks_for_one(
    kube: KubeStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp would read ~/.netrc with each, in a thread; it says so where it cannot."""
    broken = tmp_path / "netrc"
    broken.write_text("what is this")
    monkeypatch.setenv("NETRC", str(broken))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with KubeAPI(kube.kubeconfig(tmp_path)) as api:
        assert (await api.get(SECRETS))["items"] == []
    assert not caplog.records


async def test_a_proxy_of_the_environment_is_gone_through_unless_it_leaves_the_server_out(
    kube: KubeStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = kube.kubeconfig(tmp_path)
    async with KubeAPI(path) as api:
        with pytest.raises(KubernetesUnavailable, match=r"127\.0\.0\.1:1"):
            await api.get(SECRETS)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    async with KubeAPI(path) as api:
        assert (await api.get(SECRETS))["items"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"apiVersion": "v1", "kind": "Config"}'])
async def test_a_kubeconfig_of_no_use_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match="kubeconfig"):
        async with KubeAPI(path):
            pass


async def test_outside_a_pod_in_cluster_is_refused() -> None:
    with pytest.raises(ConfigError, match="in-cluster"):
        async with KubeAPI(None):
            pass


async def test_a_refusal_tells_its_code_and_what_was_said(kube: KubeStandIn, tmp_path: Path) -> None:
    async with KubeAPI(kube.kubeconfig(tmp_path)) as api:
        with pytest.raises(KubernetesError, match='secrets "x" not found') as caught:
            await api.get(f"{SECRETS}/x")
        assert caught.value.code == 404
        for code in (429, 500, 503):
            kube.refuse(code)
            with pytest.raises(KubernetesUnavailable):
                await api.get(SECRETS)


async def test_a_watch_from_too_long_ago_is_expired(kube: KubeStandIn, tmp_path: Path) -> None:
    kube.put(f"{SECRETS}/x", {})
    kube.forget()
    async with KubeAPI(kube.kubeconfig(tmp_path)) as api:
        with pytest.raises(KubernetesExpired):
            async with aclosing(api.watch(SECRETS, "1")) as events:
                await anext(events)
