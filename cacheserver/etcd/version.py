"""What etcd's version decides: which are refused, which are warned of, and whose progress notifications hold."""

from __future__ import annotations

import re
from typing import NamedTuple

from cacheserver.errors import EtcdStartError


class Version(NamedTuple):
    """Of a release; a pre-release counts as the release it comes before. Compares by number."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


# Fragmented watches and progress requests, which the client cannot do without, came with it.
OLDEST_POSSIBLE = Version(3, 4, 0)
# etcd changelogs: 3.5.0-3.5.2 data inconsistency, < 3.5.5 lost writes of one-member clusters, < 3.5.13 watch event loss
# after compaction, < 3.5.17 partial transactions, < 3.5.18 a lost delete event. 3.4 is end of life.
OLDEST_SUPPORTED = Version(3, 5, 18)
# GHSA-xg4h-6gfc-h4m8 (a watch could read past its permission); by minor release, the first patch without it.
FIRST_WITHOUT_ADVISORY = {5: 33, 6: 14, 7: 1}

_NUMBER = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def parse_version(text: str) -> Version:
    """The first a.b.c in `text` ("3.5.30", "etcd Version: 3.6.0-rc.1"). Raises: EtcdStartError when there is none."""
    found = _NUMBER.search(text)
    if found is None:
        raise EtcdStartError(f"no etcd version in {text[:80]!r}; is this etcd?")
    return Version(int(found[1]), int(found[2]), int(found[3]))


def progress_trusted(version: Version) -> bool:
    """Whether a progress notification of revision R promises that every event up to R came before it.

    etcd #15220, fixed in 3.5.8, and #17507 (an idle watch gets no answer), fixed in 3.5.13 and 3.4.31.
    """
    return version >= Version(3, 5, 13) or Version(3, 4, 31) <= version < Version(3, 5, 0)


def check_supported(version: Version, *, embedded: bool, allow_unsupported: bool = False) -> str | None:
    """None when all is well, else one line for the log.

    Raises: EtcdStartError when the version cannot work (< 3.4), or is known to lose data and is neither embedded (a
    laptop's cache can be rebuilt) nor allowed.
    """
    if version < OLDEST_POSSIBLE:
        raise EtcdStartError(f"etcd {version} is too old to be used at all; use {OLDEST_SUPPORTED} or later")
    if version < OLDEST_SUPPORTED:
        fault = f"etcd {version} has known faults that lose writes or watch events; use {OLDEST_SUPPORTED} or later"
        if embedded:
            return f"{fault} for anything but a cache that can be rebuilt"
        if allow_unsupported:
            return fault
        raise EtcdStartError(f"{fault}, or pass --allow-unsupported-etcd")
    first = FIRST_WITHOUT_ADVISORY.get(version.minor)
    if not embedded and version.major == 3 and first is not None and version.patch < first:
        return f"etcd {version} has known security advisories; 3.{version.minor}.{first} has none known to us"
    return None
