"""The doctor without a patient: how it judges certificates, conditions and repositories. tests/e2e has real ones."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cacheserver.cli import doctor
from cacheserver.cli.doctor import Finding, Level
from cacheserver.cli.main import main
from cacheserver.security.certs import Authority, Pair, Subject, Usage

NOW = datetime.datetime.now(datetime.UTC)
AUTHORITY = Authority.create("a", now=NOW)
NAME = "cacheserver.cacheserver.svc"


def certificate(*, days: float, dns: str = NAME) -> Pair:
    began = NOW - datetime.timedelta(days=1) if days <= 0 else NOW
    return AUTHORITY.issue(Subject("x", Usage.SERVER, dns=(dns,)), now=began, days=days if days > 0 else 0.5)


@pytest.mark.parametrize(
    ("days", "level", "said"), [(100, Level.OK, "until"), (3, Level.WARNING, "ends on"), (-1, Level.FAILED, "ended on")]
)
def test_a_certificate_is_judged_by_the_time_it_has_left(days: float, level: Level, said: str) -> None:
    found = doctor._certificate("c", certificate(days=days).certificate)
    assert (found.level, said in found.found, bool(found.remedy)) == (level, True, level is not Level.OK)


@pytest.mark.parametrize("pem", [b"", b"no certificate", b"\xff"])
def test_what_is_no_certificate_has_failed(pem: bytes) -> None:
    assert doctor._certificate("c", pem).level is Level.FAILED


def files(directory: Path, pair: Pair) -> tuple[Path, Path]:
    (directory / "tls.crt").write_bytes(pair.certificate)
    (directory / "tls.key").write_bytes(pair.key)
    return directory / "tls.crt", directory / "tls.key"


def test_a_bundle_vouches_for_its_own_certificates_under_the_services_name(tmp_path: Path) -> None:
    held = files(tmp_path, certificate(days=1))
    other = Authority.create("b", now=NOW).pair.certificate
    assert doctor._handshake(*held, AUTHORITY.pair.certificate, NAME) == ""
    assert "mismatch" in doctor._handshake(*held, AUTHORITY.pair.certificate, "other.svc")
    assert "issuer" in doctor._handshake(*held, other, NAME)
    assert "cannot be used" in doctor._handshake(*held, b"nonsense", NAME)


def apiservice(status: str, reason: str) -> Mapping[str, Any]:
    return {"status": {"conditions": [{"type": "Available", "status": status, "reason": reason, "message": "why"}]}}


def test_an_unavailable_apiservice_gets_the_remedy_of_its_reason() -> None:
    assert doctor._availability(apiservice("True", "Passed")).level is Level.OK
    assert doctor._availability({}).level is Level.WARNING
    assert "get pods" in doctor._availability(apiservice("False", "MissingEndpoints")).remedy
    assert "8443" in doctor._availability(apiservice("False", "FailedDiscoveryCheck")).remedy


def repository(*, generation: int = 1, **conditions: str) -> Mapping[str, Any]:
    return {
        "metadata": {"name": "r", "namespace": "n", "generation": generation},
        "status": {
            "observedGeneration": 1,
            "conditions": [
                {"type": name, "status": status, "reason": "Reason", "message": "message"}
                for name, status in conditions.items()
            ],
        },
    }


@pytest.mark.parametrize(
    ("item", "levels"),
    [
        (repository(Ready="True", Degraded="False"), []),
        (repository(Ready="True", Degraded="True"), [Level.WARNING]),
        (repository(Ready="False"), [Level.FAILED]),
        (repository(Ready="True", generation=2), [Level.WARNING]),
        ({"metadata": {"name": "r", "namespace": "n"}}, [Level.WARNING]),
    ],
)
def test_a_repository_is_judged_by_its_conditions(item: Mapping[str, Any], levels: list[Level]) -> None:
    assert [finding.level for finding in doctor._trouble(item)] == levels


def test_one_failure_decides_the_exit_code() -> None:
    good, warning, bad = (Finding("q", level, "") for level in (Level.OK, Level.WARNING, Level.FAILED))
    assert doctor.exit_code([good, warning]) == 0
    assert doctor.exit_code([good, bad]) == 1


def test_rights_are_asked_where_repositories_are_served() -> None:
    everywhere, two = doctor._needed(("",)), doctor._needed(("a", "b"))
    assert len(two) == len(everywhere) + 5
    assert {right.namespace for right in two} == {"", "kube-system", "a", "b"}


def test_without_anything_to_examine_the_command_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"], environ={}) == 2
    assert "--kubernetes" in capsys.readouterr().err


def test_an_expired_certificate_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cert, key = files(tmp_path, certificate(days=-1))
    assert main(["doctor", "--tls-cert-file", str(cert), "--tls-key-file", str(key)], environ={}) == 1
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["CHECK", "RESULT", "FOUND", "REMEDY"]
    assert "FAILED" in row
    assert "renew" in row
