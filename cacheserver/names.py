"""Object names: a pure, injective function of (repository, package, revision). Nobody parses them back.

Names that need nothing stay as they are (`community.project-quay.3.14.2`, `nephio.infra.capi.v1`). A byte that a
Kubernetes object name cannot hold becomes `x--` and two hex digits. Injectivity rests on four facts, proven by a
property test: repository names hold no dot; `--` occurs in the output only inside an escape; a dot inside a path
component is escaped; and dots of a revision stay only where it is a version, which a path can never imitate.
"""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 253  # Kubernetes: DNS-1123 subdomain
MAX_LABEL = 63  # Kubernetes: labels, syntax: a value
REPOSITORY_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")

_EMPTY = "x--y"  # an empty component; `y` is not a hex digit, so no escape looks like it
_SIMPLE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")  # nothing to escape: nearly all there is
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
_SEMANTIC = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]+([-+].*)?\Z", re.DOTALL)
_MAJOR = re.compile(r"v?[0-9]+\Z")
_LABEL_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?\Z")  # of a label's value, less the dot
_DIGITS = re.compile(r"[0-9]+\Z")


def escape(text: str) -> str:
    """`text` with every byte that cannot be in one label of an object name written as `x--hh`. Injective.

    A hyphen stays only between two plain characters, so `--` never occurs outside an escape.
    """
    if _SIMPLE.match(text):
        return text
    raw = text.encode("utf-8", "surrogatepass")
    out: list[str] = []
    for i, byte in enumerate(raw):
        between = byte == 0x2D and 0 < i < len(raw) - 1 and raw[i - 1] in _PLAIN and raw[i + 1] in _PLAIN
        out.append(chr(byte) if byte in _PLAIN or between else f"x--{byte:02x}")
    return "".join(out)


def _escape_dotted(text: str) -> str:
    """As escape, label by label: dots stay where both sides are non-empty."""
    labels = text.split(".")
    if not all(labels):
        return escape(text)
    return ".".join(escape(label) for label in labels)


def _path(package: str) -> str:
    """`a/b` as `a.b`. Two neighbours that could be read as the start of a version get the second one escaped."""
    out: list[str] = []
    previous = ""
    for component in package.split("/"):
        if previous and _MAJOR.match(previous) and _DIGITS.match(component):
            out.append(f"x--{ord(component[0]):02x}{component[1:]}")
        else:
            out.append(escape(component) or _EMPTY)
        previous = component
    return ".".join(out)


def _bounded(name: str) -> str:
    """Ours: over 253 characters the tail becomes a hash, marked by `x--z`, which no escape can produce."""
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:40]
    head = name[: MAX_NAME - len("x--z") - len(digest)].rstrip("-.")
    return f"{head}x--z{digest}"


def package_name(repository: str, package: str) -> str:
    """Name of the Package object. `package` is an FBC package name or a KRM path (`a/b`)."""
    return _bounded(f"{repository}.{_path(package)}")


def revision_name(repository: str, package: str, revision: str) -> str:
    """Name of the PackageRevision object.

    revision: FBC: the bundle's version (`1.2.3`, or `1.2.3/4` where it has a release); KRM: the revision.
    """
    tail = _escape_dotted(revision) if _SEMANTIC.match(revision) else escape(revision)
    return _bounded(f"{repository}.{_path(package)}.{tail or _EMPTY}")


def package_label(package: str) -> str:
    """Value of the label that objects of a package are selected by: `network.dns` for the KRM path `network/dns`.

    An FBC package's name is its own label. Injective as names are, by the same means: a slash becomes a dot, and a part
    with a dot, or with what no label can hold, is escaped. Over 63 characters the tail becomes a hash.
    """
    parts = package.split("/")
    label = ".".join(
        part if _LABEL_PART.match(part) and "x--" not in part else escape(part) or _EMPTY for part in parts
    )
    if len(label) <= MAX_LABEL:
        return label
    digest = hashlib.sha256(label.encode()).hexdigest()[:20]
    return f"{label[: MAX_LABEL - len('x--z') - len(digest)].rstrip('-_.')}x--z{digest}"
