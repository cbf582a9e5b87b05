"""A package's files survive the tar byte for byte, in any pieces; paths out of the package are refused."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.archive import TarReader, tar_stream

paths = (
    st.lists(st.text(alphabet="abcé.-_", min_size=1, max_size=80), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda path: ".." not in path.split("/"))
)


@given(
    st.dictionaries(paths, st.binary(max_size=1500), max_size=5), st.integers(1, 2000), st.sampled_from([0, 700, 1500])
)
def test_files_come_back_byte_equal_whatever_the_pieces(files: dict[str, bytes], piece: int, whole: int) -> None:
    tar = b"".join(tar_stream(sorted(files.items())))
    reader = TarReader(whole_bytes=whole)
    parts = [part for at in range(0, len(tar), piece) for part in reader.feed(tar[at : at + piece])]
    assert [part.path for part in parts if part.is_last] == sorted(files)
    for path, content in files.items():
        mine = [part for part in parts if part.path == path]
        assert b"".join(part.content for part in mine) == content
        assert len(mine) == 1 or len(content) > whole


def test_of_a_large_file_no_more_is_held_than_what_came_last() -> None:
    reader = TarReader()
    for piece in tar_stream([("large", bytes(10 << 20))]):
        for at in range(0, len(piece), 1 << 16):
            assert sum(len(part.content) for part in reader.feed(piece[at : at + (1 << 16)])) <= 1 << 16
            assert len(reader._buffer) <= 1 << 16


def test_any_tar_reads_it() -> None:
    tar = b"".join(tar_stream([("a/" + "b" * 120, b"\x00\xff"), ("c", b"")]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == ["a/" + "b" * 120, "c"]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_a_path_out_of_the_package_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        list(tar_stream([(path, b"")]))
