"""Image pull specs: what github.com/distribution/reference parses."""

from __future__ import annotations

import pytest

from cacheserver.catalogs.fbc.images import check_pull_spec

SHA = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "spec",
    [
        "quay.io/x/foo:v1.1.0",
        f"quay.io/x/foo@sha256:{SHA}",
        f"quay.io/x/foo:v1@sha256:{SHA}",
        "foo",
        "foo/bar",
        "foo:tag",
        "localhost/foo",
        "localhost:5000/foo",
        "registry:5000/a/b/c",
        "[fd00::1]:5000/foo",
        "a__b/c-d.e--f",
        "Registry/foo",
        f"{SHA}:v1",  # an ID alone is none
        f"{SHA}@sha256:{SHA}",
        "d" * 237,  # 255 with docker.io/library/
        "docker.io/e/" + "d" * 243,
    ],
)
def test_a_pull_spec(spec: str) -> None:
    check_pull_spec(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "quay.io/x@md5:d41d8cd98f00b204e9800998ecf8427e",
        "quay.io/x@sha256:123",
        f"quay.io/x@sha256:{SHA.upper()}",
        "quay.io/Foo",
        "quay.io/x:",
        "quay.io/x:a b",
        ":tag",
        "/foo",
        "quay.io//foo",
        "a..b/c",
        "-x.io/foo",
        SHA,
        "d" * 238,
        "docker.io/" + "d" * 238,
        "index.docker.io/" + "d" * 238,
        "e/" + "d" * 244,
        "quay.io/x@",
        "a" * 2000,
        "quay.io/" + "a" * 250,
        "quay.io/x:" + "t" * 129,
        "https://quay.io/x",
    ],
)
def test_no_pull_spec(spec: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_pull_spec(spec)
