"""An image's name: which registry, which repository, which tag or digest."""

from __future__ import annotations

import re
from typing import Final

from cacheserver.errors import SourceInvalidError
from cacheserver.slotted import slotted

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HOST: Final = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?\Z")
# OCI distribution specification, Pulling manifests.
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")


@slotted(frozen=True)
class ImageReference:
    """`digest` wins over `tag` (containers/image). One of them is set."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """`HOST/REPOSITORY[:TAG][@sha256:DIGEST]`; without tag and digest, `latest`. Raises: SourceInvalidError."""
        name, _, digest = text.partition("@")
        host, _, rest = name.partition("/")
        repository, _, tag = rest.partition(":")
        if not digest and not tag and not rest.endswith(":"):
            tag = "latest"
        fits = _HOST.match(host) and len(repository) <= 255 and _REPOSITORY.match(repository)
        if not fits or (digest and not DIGEST.match(digest)) or (tag and not _TAG.match(tag)) or not (tag or digest):
            raise SourceInvalidError(
                f"{text[:300]!r} is not an image: HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST"
            )
        if host == "docker.io" and "/" not in repository:
            repository = f"library/{repository}"  # Docker Hub keeps its own images there.
        return cls(host, repository, tag, digest)

    @property
    def version(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag

    @property
    def endpoint(self) -> str:
        """The registry's host; Docker Hub's is not the one that its images name."""
        return "registry-1.docker.io" if self.host == "docker.io" else self.host

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")
