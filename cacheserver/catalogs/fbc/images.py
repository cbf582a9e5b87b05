"""Image pull specs: whether github.com/distribution/reference would parse one. No registry is asked."""

from __future__ import annotations

import re

_LONGEST = 1024  # Ours: a bound before the regular expressions; a name has at most 255 characters anyway
_LONGEST_NAME = 255
_DOCKER, _DOCKER_BEFORE = "docker.io", "index.docker.io"
_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z"
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"[\w][\w.-]{0,127}\Z", re.ASCII)
_DIGEST_HEX = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+\Z")


def check_pull_spec(spec: str) -> None:
    """Returns when `spec` is a pull spec, as ParseNormalizedNamed sees it. Raises: ValueError that says why not."""
    if len(spec) > _LONGEST:
        raise ValueError("longer than 1024 characters")
    rest, at, digest = spec.partition("@")
    if at:
        _check_digest(digest)
    slash = rest.rfind("/")
    name, colon, tag = rest.rpartition(":") if rest.rfind(":") > slash else (rest, "", "")
    if colon and not _TAG.match(tag):
        raise ValueError(f"invalid tag {tag!r}")
    if len(spec) == 64 and _HEX.match(spec):
        raise ValueError("64 hexadecimal digits are an image ID, not a name")
    first, slash_found, path = name.partition("/")
    # splitDockerDomain: the first component is a host only if it looks like one; docker.io is implied otherwise.
    if slash_found and (set(first) & {".", ":"} or first == "localhost" or first.lower() != first):
        if not _DOMAIN.match(first):
            raise ValueError(f"invalid registry host {first!r}")
        host = _DOCKER if first == _DOCKER_BEFORE else first
    else:
        host, path = _DOCKER, name
    if host == _DOCKER and "/" not in path:
        path = f"library/{path}"
    if path.lower() != path:
        raise ValueError("repository name must be lowercase")
    if not all(_COMPONENT.match(component) for component in path.split("/")):
        raise ValueError(f"invalid repository name {path!r}")
    if len(host) + 1 + len(path) > _LONGEST_NAME:
        raise ValueError(
            "repository name must not be more than 255 characters, with docker.io/library/ where it has none"
        )


def _check_digest(digest: str) -> None:
    algorithm, _, digits = digest.partition(":")
    if algorithm not in _DIGEST_HEX:
        raise ValueError(f"unsupported digest algorithm {algorithm!r}")
    if len(digits) != _DIGEST_HEX[algorithm] or not _HEX.match(digits):
        raise ValueError(f"invalid {algorithm} digest {digits!r}")
