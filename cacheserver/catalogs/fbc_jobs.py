"""What a worker does for a file-based catalog: scans files, assembles packages, says which files an ignore file leaves.

A job's bytes in, the answer's out. Called by the worker process, which imports this with its first such job.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import orjson

from cacheserver.catalogs import facts, ignore, project, rules
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.catalogs.scan import scan
from cacheserver.catalogs.wire import Assemble, Assembled, Scan, Select, decode_job, encode_assembled, encode_reports
from cacheserver.model import RepositoryKey


def answer(frame: bytes, limits: ParseLimits) -> bytes:
    """The answer to a job of wire."""
    job = decode_job(frame)
    if isinstance(job, Scan):
        known = _known(job.known) if job.known else frozenset()
        root, scratch = Path(job.root), Path(job.scratch) if job.write_blobs else None
        return encode_reports([scan(part, root, known, scratch, limits) for part in job.parts])
    if isinstance(job, Assemble):
        return encode_assembled(_assemble(job))
    return orjson.dumps(_select(job))


@lru_cache(maxsize=4)
def _known(path: str) -> frozenset[bytes]:
    """The digests in the file; it is written once, before its first job."""
    digests = Path(path).read_bytes()
    return frozenset(digests[at : at + 32] for at in range(0, len(digests), 32))


def _assemble(job: Assemble) -> list[Assembled]:
    repository = RepositoryKey(job.namespace, job.repository)
    made: list[Assembled] = []
    for group in job.groups:
        placed = [rules.Placed(facts.decode(d.facts), d.path, d.document, d.line) for d in group.documents]
        package, findings = rules.check(group.name, placed)
        made.append(Assembled(group.name, project.records(repository, package) if package else (), findings))
    return made


def _select(job: Select) -> list[str] | str:
    """The files that are kept; a string is the reason why the ignore files cannot be used."""
    try:
        texts = {path: (Path(job.root) / path).read_text("utf-8", "replace") for path in job.ignores}
        return ignore.kept(job.files, texts)
    except (OSError, ValueError) as exc:
        return str(exc)
