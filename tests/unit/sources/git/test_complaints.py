"""What we read from strangers' words: references, challenges, credentials, Retry-After, git's complaints."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.errors import (
    SourceAuthenticationError,
    SourceError,
    SourceInvalidError,
    SourceNetworkError,
    SourceNotFoundError,
    SourceRateLimitedError,
)
from cacheserver.sources.credentials import DockerConfig, GitCredentials, RegistryCredentials, scrub
from cacheserver.sources.git.complaints import MirrorDamagedError, error_for
from cacheserver.sources.oci.auth import Challenge, read_challenges
from cacheserver.sources.oci.reference import ImageReference
from cacheserver.sources.oci.retry import retry_after_s
from cacheserver.sources.staging import checked_parts

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("quay.io/a/b:v1", ImageReference("quay.io", "a/b", "v1")),
        ("localhost:5000/b", ImageReference("localhost:5000", "b", "latest")),
        (f"quay.io/b@{DIGEST}", ImageReference("quay.io", "b", "", DIGEST)),
        (f"quay.io/b:v1@{DIGEST}", ImageReference("quay.io", "b", "v1", DIGEST)),
        ("docker.io/busybox:1", ImageReference("docker.io", "library/busybox", "1")),
        ("[::1]:5000/a__b-c.d:1", ImageReference("[::1]:5000", "a__b-c.d", "1")),
    ],
)
def test_references(text: str, wanted: ImageReference) -> None:
    assert ImageReference.parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "a", "quay.io/", "quay.io/A:1", "quay.io/a:", "quay.io/a@sha256:1", "quay.io/a@md5:" + "a" * 32,
     "quay.io/../a:1",
     "user@quay.io/a:1", "quay.io/a:1\n", "quay.io/a:" + "x" * 129, "http://quay.io/a:1"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(SourceInvalidError):
        ImageReference.parse(text)


def test_docker_hubs_host_is_another_than_its_name() -> None:
    assert ImageReference.parse("docker.io/a/b:1").endpoint == "registry-1.docker.io"


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (
            ['Bearer realm="https://auth.io/token",service="reg,istry",scope="repository:a:pull"'],
            [("bearer", {"realm": "https://auth.io/token", "service": "reg,istry", "scope": "repository:a:pull"})],
        ),
        (['Basic realm="a \\"b\\""'], [("basic", {"realm": 'a "b"'})]),
        (["Negotiate, Basic realm=x, Bearer realm=y , error=z"],
         [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y", "error": "z"})]),
        (["Basic realm=x", "Bearer realm=y"], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        ([""], []), (["=,=,"], []), ([], []),
    ],
)  # fmt: skip
def test_challenges(headers: list[str], wanted: list[tuple[str, dict[str, str]]]) -> None:
    assert read_challenges(headers) == [Challenge(scheme, parameters) for scheme, parameters in wanted]


@given(st.lists(st.text(max_size=200), max_size=3))
def test_any_challenge_can_be_read(headers: list[str]) -> None:
    read_challenges(headers)


def config(**auths: dict[str, str]) -> DockerConfig:
    return DockerConfig.parse(orjson.dumps({"auths": auths}))


def test_the_longest_key_wins() -> None:
    found = DockerConfig.parse(
        orjson.dumps(
            {
                "auths": {
                    "quay.io": {"username": "host", "password": "1"},
                    "quay.io/team": {"username": "team", "password": "2"},
                    "quay.io/team/app": {"auth": base64.b64encode(b"app:pass:word\0").decode()},
                    "https://index.docker.io/v1/": {"identitytoken": "t"},
                }
            }
        )
    )
    for repository, username in {"x": "host", "teams/app": "host", "team/x": "team", "team/app/deep": "app"}.items():
        credentials = found.for_repository("quay.io", repository)
        assert credentials is not None
        assert credentials.username == username
    assert found.for_repository("quay.io", "team/app") == RegistryCredentials("app", "pass:word")
    assert found.for_repository("docker.io", "library/x") == RegistryCredentials("", "", "t")
    assert found.for_repository("quay.io:443", "x") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"auths": 1}',
        b'{"auths": {"a": {"auth": "%%%"}}}',
        b'{"auths": {"a": "secret"}}',
        b"x" * (2 << 20),
    ],
)
def test_a_config_that_is_none_is_refused_without_quoting_it(content: bytes) -> None:
    with pytest.raises(SourceAuthenticationError) as caught:
        DockerConfig.parse(content)
    assert "secret" not in str(caught.value)


def test_credential_helpers_are_noticed_not_run() -> None:
    assert DockerConfig.parse(b'{"auths": {}, "credsStore": "desktop"}').helpers


def test_secrets_are_scrubbed() -> None:
    credentials = GitCredentials("me", "p4ssword", "b3arer")
    basic = base64.b64encode(b"me:p4ssword").decode()
    text = (
        f"fatal: https://me:p4ssword@host/x\n\x1b[31mAuthorization: Basic {basic} b3arer Bearer abc.def.ghi "
        + "y" * 600
    )
    said = scrub(text, credentials.secrets())
    for secret in ("p4ssword", "b3arer", basic, "abc.def", "\x1b", "\n"):
        assert secret not in said
    assert len(said) < 510
    assert "p4ssword" not in repr(credentials)


@pytest.mark.parametrize(("text", "wanted"), [("7", 7), ("", 0), ("-1", 0), ("soon", 0), ("9" * 30, 86400), ("1.5", 0)])
def test_retry_after_in_seconds(text: str, wanted: float) -> None:
    assert retry_after_s({"Retry-After": text}) == wanted


def test_retry_after_as_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after_s({"Retry-After": at}) <= 100
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        ("fatal: Authentication failed for 'https://h/x/'", SourceAuthenticationError),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", SourceAuthenticationError),
        (
            "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            SourceAuthenticationError,
        ),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", SourceAuthenticationError),
        ("remote: Repository not found.\nfatal: repository not found", SourceNotFoundError),
        ("fatal: couldn't find remote ref refs/heads/x", SourceNotFoundError),
        ("fatal: unable to access 'https://h/': Could not resolve host: h", SourceNetworkError),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 429", SourceRateLimitedError),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 503", SourceNetworkError),
        ("fatal: unable to access 'https://h/': SSL certificate problem: self-signed", SourceNetworkError),
        ("fatal: transport 'ext' not allowed", SourceInvalidError),
        ("error: object file x is empty\nfatal: loose object 1234 (stored in x) is corrupt", MirrorDamagedError),
        ("remote: fatal: packfile x is corrupt\nfatal: early EOF", SourceNetworkError),
        ("fatal: detected dubious ownership in repository at '/x'", SourceError),
        ("", SourceError),
    ],
)
def test_what_git_complains_of_decides_the_kind(complaint: str, kind: type[SourceError]) -> None:
    assert type(error_for(complaint, "https://h/x", ())) is kind


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("SSL: no alternative certificate subject name matches target host name 'h'", "not for the name"),
        ("SSL certificate problem: certificate has expired", "has ended"),
        ("server certificate verification failed. CAfile: none CRLfile: none", "give the authority that signed it"),
    ],
)
def test_what_to_do_about_a_certificate_depends_on_what_is_wrong_with_it(said: str, remedy: str) -> None:
    found = str(error_for(f"fatal: unable to access 'https://h/x/': {said}", "https://h/x", ()))

    assert "its certificate is not trusted" in found
    assert remedy in found


@given(st.text(alphabet="a./\0é", max_size=30))
def test_checked_parts_never_climb(path: str) -> None:
    parts = checked_parts(path)
    if parts is not None:
        assert not {"", ".", ".."} & set(parts)
        assert not any("/" in part or "\0" in part for part in parts)
