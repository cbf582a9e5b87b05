"""Client certificates that an authority signed and nobody expects: each is somebody, or nobody, and never a defect."""

from __future__ import annotations

import logging
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.guarded import Guarded
from tests.support.odd_certificates import (
    IN_FIFTY_YEARS,
    LONG_AGO,
    YEAR_ZERO,
    common_name,
    issue_odd,
    organization,
)

pytestmark = pytest.mark.processes


async def test_who_cannot_be_read_is_nobody_and_a_line_of_log_now_and_then(
    guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = issue_odd(guarded.pki.client, tmp_path, [common_name(b"eve")], not_before=YEAR_ZERO)
    assert [(await guarded.get(certificate=pair)).status for _ in range(5)] == [401] * 5
    assert not [record for record in caplog.records if record.exc_info]
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) <= 1, "a line a connection is as many as a client likes"


async def test_beside_a_certificate_that_cannot_be_read_a_token_still_counts(guarded: Guarded, tmp_path: Path) -> None:
    guarded.kube.token("good", "alice")
    guarded.kube.allow("alice", resource="packages")
    pair = issue_odd(guarded.pki.client, tmp_path, [common_name(b"eve")], not_before=YEAR_ZERO)
    assert (await guarded.get(certificate=pair, token="good")).status == 200


async def test_a_name_with_nul_is_that_name_and_not_what_stands_before_it(guarded: Guarded, tmp_path: Path) -> None:
    guarded.kube.allow("bob", resource="packages")
    pair = issue_odd(guarded.pki.client, tmp_path, [common_name(b"bob\0.evil.example")])
    assert (await guarded.get(certificate=pair)).status == 403
    assert guarded.kube.reviewed[-1]["user"] == "bob\0.evil.example"


async def test_a_proxys_name_with_nul_is_not_the_proxys(guarded: Guarded, tmp_path: Path) -> None:
    pair = issue_odd(guarded.pki.proxy, tmp_path, [common_name(b"front-proxy\0.evil.example")])
    assert (await guarded.get(certificate=pair, headers={"X-Remote-User": "admin"})).status == 401


async def test_an_organization_with_nul_is_no_master(guarded: Guarded, tmp_path: Path) -> None:
    names = [organization(b"system:masters\0"), common_name(b"eve")]
    pair = issue_odd(guarded.pki.client, tmp_path, names)
    assert (await guarded.get(certificate=pair)).status == 403


async def test_thousands_of_organizations_are_all_of_the_users_groups(guarded: Guarded, tmp_path: Path) -> None:
    names = [organization(b"g%d" % n) for n in range(4000)]
    pair = issue_odd(guarded.pki.client, tmp_path, [*names, common_name(b"eve")])
    assert (await guarded.get(certificate=pair)).status == 403
    groups = guarded.kube.reviewed[-1]["groups"]
    assert (len(groups), groups[0], groups[3999]) == (4001, "g0", "g3999")


async def test_a_certificate_of_a_megabyte_does_not_pass_the_handshake(guarded: Guarded, tmp_path: Path) -> None:
    names = [organization(b"g" * 60 + b"%04d" % n) for n in range(13_000)]
    pair = issue_odd(guarded.pki.client, tmp_path, [*names, common_name(b"eve")])
    with pytest.raises(aiohttp.ClientError):
        await guarded.get(certificate=pair)
    assert (await guarded.get("/livez")).status == 200


async def test_without_a_common_name_it_stands_for_nobody(guarded: Guarded, tmp_path: Path) -> None:
    pair = issue_odd(guarded.pki.client, tmp_path, [organization(b"system:masters")])
    assert (await guarded.get(certificate=pair)).status == 401


async def test_what_is_not_valid_yet_or_any_more_does_not_pass_the_handshake(guarded: Guarded, tmp_path: Path) -> None:
    to_come = issue_odd(guarded.pki.client, tmp_path, [common_name(b"eve")], not_before=IN_FIFTY_YEARS)
    with pytest.raises(aiohttp.ClientError):
        await guarded.get(certificate=to_come)
    over = issue_odd(guarded.pki.client, tmp_path, [common_name(b"eve")], not_after=LONG_AGO)
    with pytest.raises(aiohttp.ClientError):
        await guarded.get(certificate=over)
