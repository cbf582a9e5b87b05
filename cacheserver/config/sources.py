"""The grammar of sources: where a repository's content comes from, as text on a command line and as values.

Says nothing of whether a source exists or can be read; `cacheserver.sources` opens what is here.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cacheserver.config.quantities import parse_path
from cacheserver.slotted import slotted

ALLOWED = (
    "a path or file:///PATH, oci://HOST/REPOSITORY:TAG (or @sha256:DIGEST), oci-layout:PATH, "
    "git+https://HOST/REPOSITORY.git@REF#DIRECTORY (also git+ssh, git+file)"
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# OCI distribution specification, "Pulling manifests": names, tags; a digest is algorithm:hex.
_IMAGE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?)"
    r"/(?P<name>[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?\Z"
)
_COMMIT = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\Z")
# git-check-ref-format(1), and no leading hyphen, which git would take for an option.
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|\Z)|^[-/.]|[/.]\Z|^@\Z")


@slotted(frozen=True)
class DirectorySource:
    """A directory on this machine. `path` is absolute."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@slotted(frozen=True)
class OCISource:
    """An image in a registry: `HOST/REPOSITORY[:TAG][@sha256:DIGEST]`. Neither tag nor digest means `latest`.

    insecure: plain HTTP, or TLS whose authority is not known, is accepted.
    """

    image: str
    insecure: bool = False

    def __str__(self) -> str:
        return f"oci://{self.image}"


@slotted(frozen=True)
class OCILayoutSource:
    """An OCI image layout directory on this machine. `path` is absolute."""

    path: Path

    def __str__(self) -> str:
        return f"oci-layout:{self.path}"


class RefKind(StrEnum):
    """What the name of a git ref is looked for among."""

    BRANCH = "branch"
    TAG = "tag"
    COMMIT = "commit"
    NAME = "name"
    """As on the command line: a branch, else a tag, of that name."""


@slotted(frozen=True)
class GitRef:
    """Which commit of a git repository. name: as git shows it (main, v1.2.0), or a commit's hash."""

    kind: RefKind
    name: str


@slotted(frozen=True)
class GitSource:
    """A git repository. `url` is https, ssh or file and holds no password; it never starts with a hyphen.

    ref: None is the remote's HEAD. directory: relative with `/`, empty for the root.
    """

    url: str
    ref: GitRef | None = None
    directory: str = ""

    def __str__(self) -> str:
        ref = f"@{self.ref.name}" if self.ref else ""
        return f"git+{self.url}{ref}" + (f"#{self.directory}" if self.directory else "")


SourceSpec = DirectorySource | OCISource | OCILayoutSource | GitSource


def parse_source(text: str, base: Path) -> SourceSpec:
    """The source that `text` names; relative paths start from `base`. Raises ValueError that says what is allowed."""
    if text.startswith("oci-layout:"):
        return OCILayoutSource(parse_path(text.removeprefix("oci-layout:"), base))
    scheme = _SCHEME.match(text)
    if scheme is None:
        return DirectorySource(parse_path(text, base))
    match scheme[1].lower():
        case "file":
            return DirectorySource(_file_url(text))
        case "oci":
            return oci_source(text[scheme.end() :])
        case "git+https" | "git+ssh" | "git+file":
            return _git_text(text[len("git+") :])
        case "docker" | "docker-daemon" | "containers-storage":
            raise ValueError(f"{_plain(text)!r}: an image is written oci://HOST/REPOSITORY:TAG")
        case "http" | "https" | "ssh" | "git":
            raise ValueError(
                f"{_plain(text)!r} is not supported; is it git? Then write git+https://... Allowed: {ALLOWED}"
            )
        case other:
            raise ValueError(f"{other}:// is not supported. Allowed: {ALLOWED}")


def oci_source(image: str, *, insecure: bool = False) -> OCISource:
    """image: HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST. insecure: see OCISource. Raises: ValueError."""
    if "://" in image:
        raise ValueError(f"{_plain(image)!r}: an image is HOST/REPOSITORY:TAG, without a scheme")
    host = image.partition("/")[0]
    if "@" in host:
        raise ValueError("the image's host holds a user or password; they do not belong into a source")
    if not _IMAGE.match(image):
        raise ValueError(f"{image!r} is not an image: write HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST")
    return OCISource(image, insecure)


def git_source(url: str, ref: GitRef | None, directory: str) -> GitSource:
    """A GitSource, its parts checked. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "ssh", "file"):
        raise ValueError(f"{_plain(url)!r} is not a git URL: write https://, ssh:// or file://")
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        # The source is shown in the repository's spec, in its status and in logs.
        raise ValueError("the git URL holds a user or password; anybody who may list repositories would read it")
    if (parts.hostname or "").startswith("-") or (parts.username or "").startswith("-"):
        raise ValueError(f"{url!r}: a host or user does not start with a hyphen")  # ssh would take it for an option
    if (parts.scheme == "file") == bool(parts.netloc) or not parts.path.strip("/"):
        raise ValueError(f"{url!r} is not a git URL: write https://HOST/PATH, ssh://HOST/PATH or file:///PATH")
    if ref is not None and ref.kind is RefKind.COMMIT and not _COMMIT.match(ref.name):
        raise ValueError(f"{ref.name!r} is not a commit: 40 or 64 hex digits, not shortened")
    if ref is not None and (not ref.name or _BAD_REF.search(ref.name)):
        raise ValueError(f"{ref.name!r} is not a name that git accepts for a branch or tag")
    directory = directory.strip("/")
    if "\0" in directory or any(part in ("..", ".git") for part in directory.split("/")):
        raise ValueError(f"{directory!r} is not a directory inside the repository")
    return GitSource(url, ref, directory)


def _git_text(text: str) -> GitSource:
    """`URL@REF#DIRECTORY`. The first @ behind the host starts the ref: tags hold one more often than paths do."""
    url, _, directory = text.partition("#")
    host_end = url.find("/", url.index("://") + 3)
    if host_end < 0:
        raise ValueError(f"{_plain(text)!r} names no repository: write git+https://HOST/REPOSITORY.git")
    path, at, name = url[host_end:].partition("@")
    if at and not name:
        raise ValueError(f"{_plain(text)!r} has nothing behind the @: write a branch, tag or commit")
    ref = GitRef(RefKind.COMMIT if _COMMIT.match(name) else RefKind.NAME, unquote(name)) if at else None
    return git_source(url[:host_end] + path, ref, unquote(directory))


def _file_url(text: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError(f"{text!r} names another machine: write file:///PATH with three slashes")
    return Path(unquote(parts.path))


def _plain(text: str) -> str:
    """`text` fit for a message: what is before an @ in the host may be a password."""
    return re.sub(r"(://)[^/@]*@", r"\1", text)
