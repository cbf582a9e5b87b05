"""Which etcd versions are used, refused and believed. Needs no etcd."""

from __future__ import annotations

import pytest

from cacheserver.errors import EtcdStartError
from cacheserver.etcd.client import prefix_end
from cacheserver.etcd.version import Version, check_supported, parse_version, progress_trusted


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("etcd Version: 3.5.30\nGit SHA: x\nGo Version: go1.26.4", Version(3, 5, 30)),
        ("3.6.0-rc.1", Version(3, 6, 0)),
    ],
)
def test_a_version_is_the_first_number_of_three_parts(text: str, version: Version) -> None:
    assert parse_version(text) == version


def test_what_names_no_version_is_no_etcd() -> None:
    with pytest.raises(EtcdStartError, match="is this etcd"):
        parse_version("hello")


@pytest.mark.parametrize(
    ("version", "trusted"),
    [("3.4.30", False), ("3.4.31", True), ("3.5.1", False), ("3.5.12", False), ("3.5.13", True), ("3.6.0", True)],
)
def test_progress_is_believed_from_the_release_that_fixed_it(version: str, trusted: bool) -> None:
    assert progress_trusted(parse_version(version)) is trusted


def test_faulty_versions_serve_a_laptop_and_are_refused_as_a_service() -> None:
    faulty = Version(3, 5, 1)
    assert "can be rebuilt" in (check_supported(faulty, embedded=True) or "")
    with pytest.raises(EtcdStartError, match="--allow-unsupported-etcd"):
        check_supported(faulty, embedded=False)
    assert check_supported(faulty, embedded=False, allow_unsupported=True)


def test_sound_versions_pass_in_silence_and_those_with_advisories_with_a_line() -> None:
    assert check_supported(Version(3, 6, 14), embedded=False) is None
    assert check_supported(Version(3, 5, 18), embedded=True) is None
    assert "advisories" in (check_supported(Version(3, 5, 30), embedded=False) or "")


def test_a_version_without_the_calls_we_make_is_refused_always() -> None:
    with pytest.raises(EtcdStartError, match="too old"):
        check_supported(Version(3, 3, 10), embedded=True, allow_unsupported=True)


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0"), (b"a\xff\xff", b"b")]
)
def test_the_end_of_a_prefix_is_the_first_key_after_it(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
