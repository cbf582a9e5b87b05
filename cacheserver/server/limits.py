"""The settings' caps as the packages that keep to them take them. Used by the server and by `validate`."""

from __future__ import annotations

import logging
import math
import resource

from cacheserver.catalogs import ParseLimits, Workers
from cacheserver.config import ParseSettings
from cacheserver.headstart import HeadStart
from cacheserver.sources import Limits

log = logging.getLogger(__name__)

_OTHER_FILES = 512  # etcd's connections, workers' pipes, git, files being read; and requests that are no watch


def watches_that_fit(wanted: int) -> int:
    """How many of `wanted` watches there are files for; raises the soft limit of open files to the hard one for it.

    As Go's programs do at their start (os/rlimit.go). Every connection is an open file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS: the hard limit is infinite, and more than the kernel allows
            log.debug("the limit of open files stays", extra={"soft": soft, "hard": hard})
    if soft == resource.RLIM_INFINITY or wanted + _OTHER_FILES <= soft:
        return wanted
    fitting = max(1, soft - _OTHER_FILES)
    log.warning(
        "fewer watches than --max-watches: the limit of open files (ulimit -Hn) is too low",
        extra={"max_watches": wanted, "served": fitting, "open_files": soft, "needed": wanted + _OTHER_FILES},
    )
    return fitting


def connections_that_fit(wanted: int) -> int:
    """How many of `wanted` connections there are files for, and some left for all else; after watches_that_fit()."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(files - _OTHER_FILES, files // 2))


def source_limits(parsing: ParseSettings) -> Limits:
    """What one fetch may bring."""
    return Limits(
        total_bytes=parsing.source_bytes,
        file_bytes=parsing.file_bytes,
        files=parsing.files,
        names_bytes=parsing.names_bytes,
        refs=parsing.refs,
        git_memory_bytes=parsing.git_memory_bytes,
        git_cpu_s=math.ceil(parsing.git_cpu_s),
    )


def workers(parsing: ParseSettings, begun: HeadStart | None = None) -> Workers:
    """The processes that parse, not started yet but for `begun`: an asynchronous context manager."""
    return Workers(
        parsing.workers,
        limits=ParseLimits(file_bytes=parsing.file_bytes, document_bytes=parsing.document_bytes),
        job_timeout_s=parsing.parse_timeout_s,
        memory_bytes=parsing.worker_memory_bytes,
        begun=begun,
    )
