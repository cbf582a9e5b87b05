"""The CAs that the host cluster publishes: taken over as they change, without a request that fails."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from cacheserver.cluster.trust import parse_trust
from tests.fakes.guarded import PACKAGES, Guarded, ask
from tests.fakes.kube import TRUST
from tests.support.certificates import Authority
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

CONFIG_MAPS = TRUST.rpartition("/")[0]
PROXIED = {"X-Remote-User": "alice"}


async def test_the_request_header_ca_rotates_while_requests_go_on(guarded: Guarded, tmp_path: Path) -> None:
    """Both CAs, then the new certificate, then the new CA alone: as kube-apiserver's operator does it."""
    guarded.kube.allow("alice", resource="packages")
    old, new = guarded.pki.proxy, Authority(tmp_path / "new", name="front-proxy-ca")
    pair = guarded.pki.front_proxy
    statuses: list[int] = []
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            statuses.append((await guarded.get(certificate=pair, headers=PROXIED)).status)

    going = [asyncio.create_task(go_on()) for _ in range(3)]
    guarded.kube.trust(proxy_ca=old.pem + new.pem)
    await guarded.believed(new)
    pair = new.issue("front-proxy")
    seen = len(statuses) + 6  # every task has begun one with the new certificate
    await eventually(lambda: len(statuses) >= seen)
    guarded.kube.trust(proxy_ca=new.pem)
    await eventually(lambda: guarded.published.trust.proxy_ca.pem == new.pem)
    seen = len(statuses) + 6
    await eventually(lambda: len(statuses) >= seen)
    stop.set()
    await asyncio.gather(*going)
    assert set(statuses) == {200}
    with pytest.raises(aiohttp.ClientError):
        await guarded.get(certificate=guarded.pki.front_proxy, headers=PROXIED)


async def test_a_ca_that_went_is_believed_no_more_on_open_connections(guarded: Guarded, tmp_path: Path) -> None:
    guarded.kube.allow("alice", resource="packages")
    async with guarded.client(guarded.pki.front_proxy) as session:
        assert (await ask(session, headers=PROXIED)).status == 200
        guarded.kube.trust(proxy_ca=Authority(tmp_path / "new").pem)
        await eventually(lambda: guarded.published.trust.proxy_ca.pem != guarded.pki.proxy.pem)
        assert (await ask(session, headers=PROXIED)).status == 401


async def test_a_name_that_is_allowed_no_more_ends_on_open_connections(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    async with guarded.client(guarded.pki.front_proxy) as session:
        assert (await ask(session, headers=PROXIED)).status == 200
        guarded.kube.trust(client_ca=guarded.pki.client.pem, proxy_ca=guarded.pki.proxy.pem, names=("another",))
        await eventually(lambda: "another" in guarded.published.trust.allowed_names)
        assert (await ask(session, headers=PROXIED)).status == 401


async def test_a_ca_renewed_with_its_key_is_believed_on_open_connections(guarded: Guarded, tmp_path: Path) -> None:
    guarded.kube.allow("alice", resource="packages")
    authority = Authority(tmp_path / "ca", name="front-proxy-ca")
    pair = authority.issue("front-proxy")
    guarded.kube.trust(proxy_ca=authority.pem)
    await guarded.believed(authority)
    async with guarded.client(pair) as session:
        assert (await ask(session, headers=PROXIED)).status == 200
        authority.renew()
        guarded.kube.trust(proxy_ca=authority.pem)
        await eventually(lambda: guarded.published.trust.proxy_ca.pem == authority.pem)
        assert (await ask(session, headers=PROXIED)).status == 200


async def test_one_ca_for_both_leaves_the_name_to_decide(guarded: Guarded) -> None:
    both = guarded.pki.client
    guarded.kube.trust(client_ca=both.pem, proxy_ca=both.pem)
    await guarded.believed(both)
    forged = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
    assert (await guarded.get(certificate=guarded.pki.bob, headers=forged)).status == 403
    assert guarded.kube.reviewed[-1]["user"] == "bob"


async def test_a_config_map_of_no_use_leaves_what_was_believed(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    calls = guarded.kube.calls
    for data in ({"requestheader-client-ca-file": "no PEM"}, {"requestheader-username-headers": "no JSON"}):
        guarded.kube.put(TRUST, {"data": data})
    guarded.kube.hang_up()
    watches = calls[f"WATCH {CONFIG_MAPS}"]
    await eventually(lambda: calls[f"WATCH {CONFIG_MAPS}"] > watches)
    assert (await guarded.get(PACKAGES, proxied="alice")).status == 200


async def test_a_config_map_that_goes_leaves_what_was_believed(guarded: Guarded) -> None:
    guarded.kube.allow("alice", resource="packages")
    guarded.kube.remove(TRUST)
    watches = guarded.kube.calls[f"WATCH {CONFIG_MAPS}"]
    guarded.kube.hang_up()
    await eventually(lambda: guarded.kube.calls[f"WATCH {CONFIG_MAPS}"] > watches)
    assert (await guarded.get(PACKAGES, proxied="alice")).status == 200


async def test_changes_are_found_after_the_watch_was_too_old(guarded: Guarded, tmp_path: Path) -> None:
    new = Authority(tmp_path / "new")
    guarded.kube.refuse(500)
    guarded.kube.hang_up()
    guarded.kube.trust(proxy_ca=new.pem)
    guarded.kube.forget()
    guarded.kube.refuse(0)
    await eventually(lambda: guarded.published.trust.proxy_ca.pem == new.pem)


async def test_only_the_one_config_map_is_asked_for(guarded: Guarded) -> None:
    """Its reader role names it; a list of all of kube-system would be refused."""
    lists = guarded.kube.calls[f"GET {CONFIG_MAPS}"]
    guarded.kube.put(f"{CONFIG_MAPS}/a-first-one", {"data": {"requestheader-client-ca-file": guarded.pki.stranger.pem}})
    guarded.kube.forget()
    guarded.kube.hang_up()
    await eventually(lambda: guarded.kube.calls[f"GET {CONFIG_MAPS}"] > lists)
    await guarded.believed(guarded.pki.proxy)
    assert guarded.published.trust.proxy_ca.pem == guarded.pki.proxy.pem


def test_missing_keys_turn_off_what_they_are_for() -> None:
    trust = parse_trust({})
    assert not trust
    assert trust.client_cas == ""
    assert parse_trust({"requestheader-uid-headers": ""}).uid_headers == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client-ca-file", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
        ("client-ca-file", "nothing"),
        ("requestheader-allowed-names", json.dumps({"a": 1})),
        ("requestheader-group-headers", "[1]"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=key):
        parse_trust({key: value})
