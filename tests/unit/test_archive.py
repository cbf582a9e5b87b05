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


@given(st.dictionaries(paths, st.binary(max_size=1500), max_size=5), st.integers(1, 2000))
def test_files_come_back_byte_equal_whatever_the_pieces(files: dict[str, bytes], piece: int) -> None:
    tar = b"".join(tar_stream(sorted(files.items())))
    reader = TarReader()
    back = [entry for at in range(0, len(tar), piece) for entry in reader.feed(tar[at : at + piece])]
    assert back == sorted(files.items())


def test_any_tar_reads_it() -> None:
    tar = b"".join(tar_stream([("a/" + "b" * 120, b"\x00\xff"), ("c", b"")]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == ["a/" + "b" * 120, "c"]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_a_path_out_of_the_package_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        list(tar_stream([(path, b"")]))
