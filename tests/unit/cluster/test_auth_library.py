"""Of kubernetes_asyncio comes what reads credentials and makes requests; whoever imports it as it is gets all of it."""

from __future__ import annotations

import sys

import pytest

from cacheserver.cluster.library import load

pytestmark = pytest.mark.processes


def _known() -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if name.startswith("kubernetes_asyncio")}


def test_the_client_that_brings_the_models_is_left_out() -> None:
    library = load.__wrapped__()
    assert library.config.kube_config.Configuration is library.Configuration
    assert library.config.kube_config.ApiClient is None


def test_others_find_their_own_modules_as_before() -> None:
    before = _known()
    load.__wrapped__()
    assert _known() == before


def test_others_get_all_of_it_afterwards() -> None:
    load.__wrapped__()
    from kubernetes_asyncio import client
    from kubernetes_asyncio.config import kube_config

    assert client.CoreV1Api.__module__.startswith("kubernetes_asyncio.client.api")
    assert vars(kube_config)["ApiClient"] is client.ApiClient
