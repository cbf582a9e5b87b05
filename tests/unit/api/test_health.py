"""Health, version and metrics."""

from __future__ import annotations

import logging

import orjson
import pytest

from cacheserver.api.health import Health
from cacheserver.meters import Fact
from tests.fakes.api import World, api_world


async def test_all_is_well(world: World) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/livez/ping", "/readyz/watch-cache"):
        answer = await world.get(path)
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_failing_check_is_named_and_its_reason_kept_for_its_own_path() -> None:
    async with api_world(checks={"etcd": lambda: "no answer for 9 s", "disk": lambda: None}) as world:
        answer = await world.get("/readyz")
        assert answer.status == 500
        assert answer.body == (
            b"[+]ping ok\n[+]watch-cache ok\n[-]etcd failed: reason withheld\n[+]disk ok\n[+]shutdown ok\n"
            b"readyz check failed\n"
        )
        assert (await world.get("/readyz/etcd")).body == b"internal server error: no answer for 9 s\n"
        assert (await world.get("/readyz/disk")).status == 200
        assert (await world.get("/livez")).status == 200
        assert (await world.get("/readyz", exclude="etcd")).status == 200


async def test_a_start_warns_of_nothing_and_a_check_that_failed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reason: list[str | None] = ["etcd has not answered yet"]
    async with api_world(checks={"etcd": lambda: reason[0]}) as world:
        for now in ("etcd has not answered yet", None, "etcd is away", None):
            reason[0] = now
            await world.get("/readyz")
    told = [(r.levelname, r.getMessage()) for r in caplog.records if r.__dict__.get("check") == "readyz/etcd"]
    assert told == [
        ("INFO", "not ready yet"),
        ("INFO", "health check passes"),
        ("WARNING", "health check failed"),
        ("INFO", "health check passes again"),
    ]


async def test_a_check_that_has_not_passed_for_long_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    now = iter((0.0, 0.0, 59.0, 61.0, 62.0))
    health = Health({"etcd": lambda: "no answer"}, {}, now=lambda: next(now))
    for _ in range(4):
        health.answer("/readyz", "")
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == ["health check failed"]


async def test_verbose_and_exclude_read_as_in_kubernetes(world: World) -> None:
    answer = await world.get("/livez", verbose="", exclude="nope")
    assert answer.body == (
        b'[+]ping ok\nwarn: some health checks cannot be excluded: no matches for "nope"\nlivez check passed\n'
    )
    assert b"[+]ping excluded: ok\n" in (await world.get("/readyz", verbose="", exclude="ping")).body
    assert (await world.get("/readyz/nope")).status == 404


async def test_the_version_is_ours(world: World) -> None:
    answer = await world.get("/version")
    assert answer.json["gitVersion"] == "v1.2.3"
    assert (answer.json["major"], answer.json["minor"]) == ("1", "2")
    assert answer.body == orjson.dumps(answer.json, option=orjson.OPT_INDENT_2)


async def test_requests_are_counted_under_kubernetes_labels(six: World) -> None:
    lists = (
        'apiserver_request_total{code="200",component="cacheserver",dry_run="",group="cacheserver.dev",'
        'resource="packages",scope="namespace",subresource="",system_client="",verb="LIST",version="v1alpha1"}'
    )
    before = _counters((await six.get("/metrics")).body.decode())
    await six.get("namespaces/team/packages")
    await six.get("namespaces/team/packages/r.a")
    await six.get("namespaces/team/packages/r.a/forged-label")
    await six.get("forged-resource")
    text = (await six.get("/metrics")).body.decode()
    assert _counters(text)[lists] == before.get(lists, 0) + 1
    assert (
        'apiserver_request_duration_seconds_bucket{component="cacheserver",dry_run="",group="cacheserver.dev"' in text
    )
    assert 'apiserver_response_sizes_sum{component="cacheserver"' in text
    assert 'apiserver_current_inflight_requests{request_kind="readOnly"}' in text
    assert "forged" not in text
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text


async def test_a_probe_that_fails_is_no_error_of_the_api() -> None:
    async with api_world(checks={"etcd": lambda: "no answer"}) as world:
        # The counts are the process's: what other tests of this process left in them is not this probe's.
        before = _counters((await world.get("/metrics")).body.decode())
        assert (await world.get("/readyz")).status == 500
        after = _counters((await world.get("/metrics")).body.decode())
    grown = [series for series in after if 'code="500"' in series and after[series] != before.get(series)]
    assert grown
    assert all('subresource="/readyz"' in series for series in grown)


def _counters(text: str) -> dict[str, float]:
    """How many requests were answered, by the name and labels of each series; the process's, so only growth counts."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("apiserver_request_total{")]
    return {series: float(count) for series, count in lines}


def test_there_is_no_date_of_a_certificate_where_there_is_none() -> None:
    fact = Fact("test_fact", "x", shown=False)
    assert not fact.known
    fact.set(0.0)
    assert fact.known
