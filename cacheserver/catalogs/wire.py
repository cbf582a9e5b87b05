"""What both formats share of the messages to workers and back: JSON in lines, and packages with their records.

What can be long is written in lines of some hundred items: reading one takes all of Python's threads a millisecond, and
a frame of 30,000 documents at once would take them, the loop's among them, for 50. Questions and answers of one format
are in fbc/wire.py and krm/wire.py; how frames follow each other in frame.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from cacheserver.catalogs.catalog import Finding
from cacheserver.model import BlobFile, BlobHead, Digest, Key, Kind, Record, RepositoryKey
from cacheserver.slotted import slotted

LINE_ITEMS: Final = 500
"""Of one kind, in one line of a frame."""
_SHORT_BYTES: Final = 32 << 10
"""A frame that is read at once: 300 documents, under 1 ms. Longer ones are for a thread."""

_T = TypeVar("_T")


async def unhurried(decode: Callable[[bytes], _T], frame: bytes) -> _T:
    """What `decode` makes of a frame, without holding up the loop."""
    if len(frame) <= _SHORT_BYTES:
        return decode(frame)
    import asyncio  # noqa: PLC0415 - workers, which never wait, import this module too: a third of their start

    return await asyncio.to_thread(decode, frame)


@slotted(frozen=True)
class Assembled:
    """A package's records, none when it is rejected, all findings about it, and content that was made with them."""

    name: str
    records: Sequence[Record]
    findings: Sequence[Finding]
    blobs: Sequence[BlobFile] = ()


def sliced(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """In parts of LINE_ITEMS."""
    return (items[at : at + LINE_ITEMS] for at in range(0, len(items), LINE_ITEMS))


def write_lines(items: Iterable[object]) -> bytes:
    """A line of JSON for each item."""
    # default: of what is sent, only paths are foreign to JSON. No line of JSON holds a line break.
    return b"\n".join(orjson.dumps(item, default=str) for item in items)


def read_lines(frame: bytes) -> Iterator[Any]:
    """What write_lines() was given, one at a time."""
    at = 0
    while at <= len(frame):
        end = frame.find(b"\n", at)
        end = end if end >= 0 else len(frame)
        if end > at:
            yield orjson.loads(memoryview(frame)[at:end])
        at = end + 1


def encode_assembled(packages: Sequence[Assembled]) -> bytes:
    """Spec and status travel as strings: the parent needs their bytes, not their fields."""
    return write_lines(line for package in packages for line in _package_lines(package))


def _package_lines(package: Assembled) -> Iterator[object]:
    yield [package.name]
    for findings in sliced(package.findings):
        yield [None, findings]
    if package.blobs:
        yield [False, package.blobs]
    for record in package.records:
        key = record.key
        spec, status = record.spec.decode(), record.status.decode()
        yield [key.kind, key.revision, record.labels, spec, status, record.blobs, record.nonce]


def decode_assembled(frame: bytes, repository: RepositoryKey) -> list[Assembled]:
    """What encode_assembled() was given, of packages of `repository`. Slow for the loop; see unhurried()."""
    found: list[Assembled] = []
    records: list[Record] = []
    findings: list[Finding] = []
    blobs: list[BlobFile] = []
    for first, *rest in read_lines(frame):
        if not rest:
            records, findings, blobs = [], [], []
            found.append(Assembled(first, records, findings, blobs))
        elif first is None:
            findings += [Finding(**finding) for finding in rest[0]]
        elif first is False:
            blobs += [decode_blob(blob) for blob in rest[0]]
        else:
            revision, labels, spec, status, digests, nonce = rest
            records.append(
                Record(
                    key=Key(Kind(first), repository.namespace, repository.name, found[-1].name, revision),
                    labels=labels,
                    spec=spec.encode(),
                    status=status.encode(),
                    blobs=tuple(Digest(digest) for digest in digests),
                    nonce=nonce,
                )
            )
    return found


def decode_blob(written: dict[str, Any]) -> BlobFile:
    """A BlobFile that write_lines() wrote."""
    head = written["head"]
    files = tuple((path, size) for path, size in head["files"])
    about = BlobHead(Digest(head["digest"]), head["size"], head["media_type"], files)
    return BlobFile(about, Path(written["path"]), written["stored"], written["at"])
