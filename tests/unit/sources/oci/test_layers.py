"""Applying an image's layers: what survives, what is refused by name, and that nothing leaves its root."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.errors import SourceError, SourceInvalidError, SourceTooLargeError
from cacheserver.sources import Limits, Tree
from cacheserver.sources.oci import layers as layers_module
from cacheserver.sources.oci.layers import Budget, Layer, unpack
from cacheserver.sources.staging import Directory, Staging
from tests.support.fuzz import FUZZ
from tests.support.registry import Member, directory, gzipped, hard_link, symlink, tar, zstandard_compressed

pytestmark = pytest.mark.processes


def unpacked(
    area: Path, *blobs: bytes, base: str = "configs", limits: Limits | None = None, damage: bool = False
) -> Tree:
    """The tree that plain tar blobs, applied in order, make."""
    limits = limits or Limits()
    (area / "contents").mkdir(parents=True)
    staging, top, budget = Staging(area / "contents", limits), Directory(), Budget(limits, threading.Event())
    parts = tuple(filter(None, base.split("/")))
    for at, blob in enumerate(blobs):
        file = area / f"blob{at}"
        file.write_bytes(blob)
        diff_id = "sha256:" + hashlib.sha256(blob).hexdigest()
        unpack(file, Layer("sha256:test", "wrong" if damage else diff_id), top, parts, staging, budget)
    top.directory(parts)
    return staging.place(top, parts, area / "tree", "test")


def contents(tree: Tree) -> dict[str, bytes]:
    assert not any(path.is_symlink() for path in tree.root.rglob("*"))
    found = {
        path.relative_to(tree.root).as_posix(): path.read_bytes() for path in tree.root.rglob("*") if path.is_file()
    }
    assert tuple(sorted(found, key=str.encode)) == tree.files
    return found


def file(name: str, content: bytes = b"x") -> Member:
    return Member(name, content)


def test_only_the_labelled_directory_is_kept(tmp_path: Path) -> None:
    tree = unpacked(
        tmp_path, tar(file("etc/passwd"), file("configs/a.yaml", b"a"), file("configs2/b"), file("./configs/c/d"))
    )
    assert contents(tree) == {"a.yaml": b"a", "c/d": b"x"}
    assert len(list((tmp_path / "contents").iterdir())) == 2


def test_a_later_layer_replaces_and_deletes(tmp_path: Path) -> None:
    one = tar(file("configs/foo/a"), file("configs/foo/b"), file("configs/bar"), file("configs/baz/x"))
    two = tar(
        file("configs/foo/.wh.a"), file("configs/foo/b", b"new"), file("configs/.wh.baz"), file("configs/bar/deep")
    )
    assert contents(unpacked(tmp_path, one, two)) == {"foo/b": b"new", "bar/deep": b"x"}


def test_whiteouts_never_hide_their_own_layer(tmp_path: Path) -> None:
    one = tar(file("configs/old"), file("configs/dir/old"))
    two = tar(file("configs/new"), file("configs/.wh..wh..opq"), file("configs/same"), file("configs/.wh.same"))
    assert contents(unpacked(tmp_path, one, two)) == {"new": b"x", "same": b"x"}


@pytest.mark.parametrize("whiteout", [".wh.configs", ".wh.a"])
def test_a_whiteout_of_a_directory_above_takes_all(tmp_path: Path, whiteout: str) -> None:
    base = "a/configs"
    one = tar(file("a/configs/old"))
    two = tar(Member(whiteout if whiteout == ".wh.a" else f"a/{whiteout}"), file("a/configs/new"))
    assert contents(unpacked(tmp_path, one, two, base=base)) == {"new": b"x"}


def test_an_opaque_directory_above_takes_all(tmp_path: Path) -> None:
    two = tar(file(".wh..wh..opq"), file("configs/new"))
    assert contents(unpacked(tmp_path, tar(file("configs/old")), two)) == {"new": b"x"}


def test_a_directory_above_replaced_by_a_file_takes_all(tmp_path: Path) -> None:
    assert contents(unpacked(tmp_path, tar(file("a/b/old")), tar(file("a")), tar(file("a/b/new")), base="a/b")) == {
        "new": b"x"
    }


def test_hard_links_are_the_file_in_this_layer_and_the_last(tmp_path: Path) -> None:
    one = tar(file("configs/a", b"1"), hard_link("configs/b", "configs/a"), file("etc/x"))
    two = tar(
        hard_link("configs/c", "/configs/b"), hard_link("configs/out", "etc/x"), hard_link("configs/no", "configs/no")
    )
    tree = unpacked(tmp_path, one, two)
    assert contents(tree) == {"a": b"1", "b": b"1", "c": b"1"}
    assert dict(tree.refused) == {
        "no": "hard link leads nowhere",
        "out": "hard link to a file outside the catalog's directory",
    }


def test_links_are_resolved_inside_only(tmp_path: Path) -> None:
    members = [
        directory("configs/d/"), file("configs/d/real", b"r"), symlink("configs/rel", "d/real"),
        symlink("configs/abs", "/configs/d/real"), symlink("configs/d/up", "../rel"),
        symlink("configs/etc", "/etc/passwd"), symlink("configs/none", "d/absent"),
        symlink("configs/climb", "../../../../etc/passwd"), symlink("configs/back", "../configs/rel"),
        symlink("configs/loop", "loop2"), symlink("configs/loop2", "loop"), symlink("configs/dir", "d"),
        symlink("configs/through", "dir/real"), symlink("configs/dots", "x/../rel"),
    ]  # fmt: skip
    tree = unpacked(tmp_path, tar(*members))
    assert contents(tree) == dict.fromkeys(("d/real", "rel", "abs", "d/up", "back", "through"), b"r")
    out = "link leads out of the source's root"
    assert dict(tree.refused) == {
        "etc": out, "climb": out, "loop": "link loops", "loop2": "link loops", "none": "link leads nowhere",
        "dir": "link to a directory; its files are read at d", "dots": "link leads nowhere",
    }  # fmt: skip


def test_a_file_written_through_a_link_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = unpacked(
        tmp_path, tar(symlink("configs/d", str(outside)), file("configs/d/x")), tar(symlink("configs/d/y", "/"))
    )
    assert contents(tree) == {"d/x": b"x"}
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "configs/../../evil", "/../evil", "configs/.wh...", "a/../../configs/x"])
def test_a_path_out_of_the_root_refuses_the_image(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceInvalidError, match=r"out of the image's root|whiteout of nothing"):
        unpacked(tmp_path, tar(file(name)))


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    devices = [Member("configs/null", kind=tarfile.CHRTYPE), Member("configs/disk", kind=tarfile.BLKTYPE)]
    tree = unpacked(
        tmp_path, tar(*devices, Member("configs/pipe", kind=tarfile.FIFOTYPE), Member("dev/null", kind=tarfile.CHRTYPE))
    )
    assert dict(tree.refused) == {"null": "is a device", "disk": "is a device", "pipe": "is a pipe"}
    assert contents(tree) == {}


def test_a_sparse_file_is_refused_by_name(tmp_path: Path) -> None:
    out = bytearray(tar(file("configs/huge", b"x" * 600), form=tarfile.GNU_FORMAT))
    out[156:157] = b"S"
    out[148:156] = b" " * 8
    out[148:156] = b"%06o\0 " % sum(out[:512])
    tree = unpacked(tmp_path, bytes(out))
    assert dict(tree.refused) == {"huge": "is a sparse file"}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_unicode_names_in_both_dialects(tmp_path: Path, form: int) -> None:
    long = "configs/" + "/".join(["d" * 60] * 5) + "/é.yaml"
    target = "/".join(["d" * 60] * 5) + "/é.yaml"
    tree = unpacked(tmp_path, tar(file(long, b"1"), symlink("configs/s", target), form=form))
    assert contents(tree) == {long.removeprefix("configs/"): b"1", "s": b"1"}


@pytest.mark.parametrize(
    ("name", "cap"),
    [("n" * 300, "name_bytes"), ("/".join(["d" * 250] * 20), "path_bytes"), ("a/" * 3000, "path_bytes")],
)
def test_a_name_too_long_for_any_disk_refuses_the_image_by_its_cap(tmp_path: Path, name: str, cap: str) -> None:
    with pytest.raises(SourceTooLargeError, match=f"cap `{cap}`") as refused:
        unpacked(tmp_path, tar(file(f"configs/{name}"), file("configs/ok")))
    assert len(str(refused.value)) < 400


def test_links_count_by_what_they_name(tmp_path: Path) -> None:
    links = [symlink(f"configs/{at}", "t" * 200) for at in range(50)]
    with pytest.raises(SourceTooLargeError, match="cap `names_bytes`; --max-names-bytes raises it"):
        unpacked(tmp_path / "many", tar(*links), limits=Limits(names_bytes=8000))
    with pytest.raises(SourceTooLargeError, match="cap `path_bytes`"):
        unpacked(tmp_path / "long", tar(symlink("configs/long", "t" * 5000)))


def test_directories_that_a_name_brings_along_are_entries(tmp_path: Path) -> None:
    files = [file("configs/" + "/".join([f"{at}", *"abcdefgh"])) for at in range(10)]
    with pytest.raises(SourceTooLargeError, match="cap `files`"):
        unpacked(tmp_path / "few", tar(*files), limits=Limits(files=80))
    assert len(unpacked(tmp_path / "more", tar(*files), limits=Limits(files=100)).files) == 10


@pytest.mark.parametrize("limits", [Limits(files=5), Limits(file_bytes=50), Limits(total_bytes=4000), Limits(depth=3)])
def test_caps_refuse_by_name(tmp_path: Path, limits: Limits) -> None:
    members = [file(f"configs/{n}", b"y" * 100) for n in range(10)]
    with pytest.raises(SourceTooLargeError, match="cap `"):
        unpacked(tmp_path, tar(file("configs/a/b/c/d"), *members), limits=limits)


def test_many_names_for_one_file_are_counted_by_their_bytes(tmp_path: Path) -> None:
    links = [hard_link(f"configs/{n}", "configs/a") for n in range(50)]
    with pytest.raises(SourceTooLargeError, match="total_bytes"):
        unpacked(tmp_path, tar(file("configs/a", b"y" * 2000), *links), limits=Limits(total_bytes=80_000))


@pytest.mark.parametrize("compress", [gzipped, zstandard_compressed])
def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    bomb = compress(tar(file("etc/zeros", bytes(80 << 20))))
    assert len(bomb) < 1 << 20
    with pytest.raises(SourceTooLargeError, match="times its size"):
        unpacked(tmp_path, bomb)


def test_a_million_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "_ENTRIES", 100)
    with pytest.raises(SourceTooLargeError, match="more than 100 entries"):
        unpacked(tmp_path, tar(*(file(f"usr/{n}") for n in range(101))))


@pytest.mark.parametrize("magic", [b"BZh91AY", b"\xfd7zXZ\0\0"])
def test_other_compressions_are_named(tmp_path: Path, magic: bytes) -> None:
    with pytest.raises(SourceInvalidError, match="compressed with"):
        unpacked(tmp_path, magic + bytes(600))


def test_a_wrong_diff_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceInvalidError, match="config says wrong"):
        unpacked(tmp_path, tar(file("configs/a")), damage=True)


def test_a_stopped_unpacking_ends(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(tar(file("configs/a")))
    stop = threading.Event()
    stop.set()
    with pytest.raises(layers_module.StoppedError):
        unpack(blob, Layer("", ""), Directory(), ("configs",), Staging(tmp_path, Limits()), Budget(Limits(), stop))


PARTS = st.sampled_from(
    ["configs", "a", "b", "..", ".", "", ".wh.a", ".wh.configs", ".wh..wh..opq", ".wh.", "é", "x" * 130]
)
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"S", b"Z"]
)
MEMBERS = st.builds(Member, PATHS, st.binary(max_size=600), KINDS, PATHS)
ARCHIVES = st.lists(st.lists(MEMBERS, max_size=8), min_size=1, max_size=3)


def survives(*blobs: bytes) -> None:
    """Unpacking ends in a confined tree of regular files or in a SourceError, and writes nowhere else."""
    with tempfile.TemporaryDirectory() as home:
        area = Path(home) / "area"
        area.mkdir()
        try:
            tree = unpacked(area, *blobs, limits=Limits(total_bytes=1 << 20, file_bytes=1 << 16, files=100, depth=8))
        except SourceError:
            pass
        else:
            assert contents(tree).keys() == set(tree.files)
        assert [path.name for path in Path(home).iterdir()] == ["area"]
        names = {path.name for path in area.iterdir()}
        assert names <= {"contents", "tree"} | {f"blob{n}" for n in range(3)}


@FUZZ
@given(ARCHIVES, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_fuzz_strange_archives(archives: list[list[Member]], form: int) -> None:
    survives(*(tar(*members, form=form) for members in archives))


@FUZZ
@given(
    st.lists(MEMBERS, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=12))),
)
def test_fuzz_damaged_archives(members: list[Member], damage: list[tuple[int, bytes]]) -> None:
    content = bytearray(tar(*members))
    for at, replacement in damage:
        content[at : at + len(replacement)] = replacement
        if at % 2:  # Make the header believable again, so that what lies behind the checksum is met.
            start = at // 512 * 512
            header = content[start : start + 512]
            header[148:156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    survives(bytes(content))


@FUZZ
@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"]))
def test_fuzz_noise(noise: bytes, magic: bytes) -> None:
    survives(magic + noise)
