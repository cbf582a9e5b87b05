"""The settings' caps in the words of the rooms that keep to them. Used by the server and by `validate`."""

from __future__ import annotations

import math

from cacheserver.catalogs import ParseLimits, Workers
from cacheserver.config import ParseSettings
from cacheserver.sources import Limits


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


def workers(parsing: ParseSettings) -> Workers:
    """The processes that parse, not started yet: an asynchronous context manager."""
    return Workers(
        parsing.workers,
        limits=ParseLimits(file_bytes=parsing.file_bytes, document_bytes=parsing.document_bytes),
        job_timeout_s=parsing.parse_timeout_s,
        memory_bytes=parsing.worker_memory_bytes,
    )
