"""Content that workers set aside: whole or not there, and a full disk is a finding in either format."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import zstandard

from cacheserver.catalogs.blobs import BlobWriter
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.krm.wire import Pack, Wanted
from cacheserver.catalogs.krm.worker import pack
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import BlobHead, Digest
from tests.support.krm import kptfile

CONTENT = b"some content" * 20_000
HEAD = BlobHead(Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"), len(CONTENT), "text/plain")


@pytest.mark.parametrize("content", [CONTENT, (CONTENT[:7], CONTENT[7:])], ids=["whole", "pieces"])
def test_content_stands_under_its_digest_and_nothing_else_is_left(
    tmp_path: Path, content: bytes | tuple[bytes, ...]
) -> None:
    blob = BlobWriter(tmp_path).write(HEAD, content)
    assert blob.head == HEAD
    assert zstandard.decompress(blob.path.read_bytes()) == CONTENT
    assert list(tmp_path.iterdir()) == [blob.path]


def test_content_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    writer = BlobWriter(tmp_path)
    first = writer.write(HEAD, CONTENT).path.stat().st_ino
    assert writer.write(HEAD, iter(())).path.stat().st_ino == first


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Where no file can be made."""
    path = tmp_path / "full"
    path.write_bytes(b"")
    return path


def test_a_full_disk_is_an_error_of_the_document(full: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be set aside: Not a directory") as caught:
        BlobWriter(full).write(HEAD, CONTENT)
    assert caught.value.reason == "ScratchFailed"


def test_a_full_disk_refuses_a_krm_package_and_ends_no_worker(tmp_path: Path, full: Path) -> None:
    (tmp_path / "Kptfile").write_bytes(kptfile("pump"))
    wanted = Wanted("pump", [("Kptfile", "Kptfile")])
    [packed] = pack(Pack(str(tmp_path), str(full), [wanted]), ParseLimits())
    assert packed.refusal is not None
    assert packed.refusal.reason == "ScratchFailed"
