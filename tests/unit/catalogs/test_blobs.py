"""Content that workers set aside: whole or not referred to, and a full disk is a finding in either format."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cacheserver.catalogs.blobs import BlobWriter, writer
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.krm.wire import Pack, Wanted
from cacheserver.catalogs.krm.worker import pack
from cacheserver.catalogs.limits import ParseLimits
from cacheserver.model import BlobHead, Digest
from tests.support.content import unpacked
from tests.support.krm import kptfile

CONTENT = b"some content" * 20_000
HEAD = BlobHead(Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"), len(CONTENT), "text/plain")
OTHER = BlobHead(Digest(f"sha256:{hashlib.sha256(b'other').hexdigest()}"), 5, "text/plain")


@pytest.mark.parametrize("content", [CONTENT, (CONTENT[:7], CONTENT[7:])], ids=["whole", "pieces"])
def test_contents_stand_one_behind_the_other_in_one_file(tmp_path: Path, content: bytes | tuple[bytes, ...]) -> None:
    blobs = BlobWriter(tmp_path)
    one, two = blobs.write(HEAD, content), blobs.write(OTHER, b"other")
    assert (one.head, two.head) == (HEAD, OTHER)
    assert (unpacked(one), unpacked(two)) == (CONTENT, b"other")
    [path] = tmp_path.iterdir()
    assert path.stat().st_size == one.stored + two.stored


def test_content_that_is_there_is_not_written_again_by_a_later_job(tmp_path: Path) -> None:
    first = writer(tmp_path).write(HEAD, CONTENT)
    assert writer(tmp_path).write(HEAD, iter(())) == first
    assert first.path.stat().st_size == first.stored


def test_content_is_written_again_where_the_directory_was_made_anew(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    for _ in range(2):
        scratch.mkdir()
        made = [writer(scratch).write(head, content) for head, content in ((OTHER, b"other"), (HEAD, CONTENT))]
        assert [unpacked(blob) for blob in made] == [b"other", CONTENT]
        shutil.rmtree(scratch)


def test_what_a_full_disk_cut_short_is_no_part_of_what_follows(tmp_path: Path) -> None:
    def cut_short() -> Iterator[bytes]:
        yield random.Random(1).randbytes(len(CONTENT) - 1)
        raise OSError(errno.ENOSPC, "No space left on device")

    blobs = BlobWriter(tmp_path)
    before = blobs.write(OTHER, b"other")
    with pytest.raises(DocumentError, match="No space left"):
        blobs.write(HEAD, cut_short())
    after = blobs.write(HEAD, CONTENT)
    assert (unpacked(before), unpacked(after)) == (b"other", CONTENT)
    assert after.at > before.stored


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
