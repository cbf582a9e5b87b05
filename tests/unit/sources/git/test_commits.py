"""Commits and refs as they may come, well formed or not."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cacheserver.catalogs.krm.discover import by_name, without_rivals
from cacheserver.catalogs.krm.facts import Origin
from cacheserver.sources.git.commits import Commit, parse

HEAD = b"tree aaaa\nparent bbbb\nparent cccc\nauthor A <B> <a@example.com> 1700000000 +0200\n"
COMMITTER = b"committer C <c@example.com> 1700000100 -0100\ngpgsig x\n tree dddd\n\n"


@dataclass(frozen=True)
class Ref:
    commit: str


def test_a_commit_tells_who_when_and_which_workspace() -> None:
    message = (
        b'Approve\n\nkpt:{"package":"/a/b/","workspaceName":"w1"}\n'
        b'kpt:{"package":"a/b","workspaceName":"w2","revision":"v3"}\nCacheserver-Nonce: 0123456789abcdef\n'
    )
    found = parse(HEAD + COMMITTER + message)
    assert found == Commit(
        "aaaa",
        ("bbbb", "cccc"),
        1_700_000_100,
        "a@example.com",
        "2023-11-14T22:13:20Z",
        (("a/b", "w1", ""), ("a/b", "w2", "v3")),
        nonce="0123456789abcdef",
    )
    assert found.annotated(["a/b"]) == ("w2", "3")
    assert found.annotated(["b"]) is None


def test_what_is_no_nonce_of_ours_is_none() -> None:
    for written in (b"0123", b"0123456789ABCDEF", b"0123456789abcdef0", b" 0123456789abcdef", b"../../../../etc/x"):
        assert parse(HEAD + COMMITTER + b"x\n\nCacheserver-Nonce: " + written + b"\n").nonce == ""
    assert parse(HEAD + COMMITTER + b"x Cacheserver-Nonce: 0123456789abcdef\n").nonce == ""


def test_times_that_are_none_stay_empty() -> None:
    for written in (b"", b"-5 +0000", b"999999999999999 +0000", b"999999999999 +0000", b"x y"):
        found = parse(b"tree a\nauthor A <a@b> " + written + b"\n\nm")
        assert (found.author, found.authored_at) == ("a@b", "")


def test_annotations_of_another_shape_are_told() -> None:
    lines = (b"kpt:", b"kpt:7", b'kpt:{"package":7}', b"kpt:{" + b'"a":{' * 5000, b' kpt:{"package":"indented"}')
    found = parse(HEAD + COMMITTER + b"\n".join(lines))
    assert len(found.bad) == 4
    assert found.annotations == ()


@given(st.binary())
def test_any_bytes_are_some_commit(raw: bytes) -> None:
    parse(raw)
    parse(HEAD + raw)
    parse(HEAD + COMMITTER + b"kpt:" + raw)


_PART = st.text(alphabet="av1-._\u00fc\udc80", min_size=1, max_size=3)
_NAMES = st.builds(
    lambda kind, parts: kind + "/".join(parts),
    st.sampled_from(["refs/tags/", "refs/heads/drafts/", "refs/heads/proposed/", "refs/heads/deletionProposed/"]),
    st.lists(_PART, min_size=1, max_size=4),
)


@given(st.lists(_NAMES, unique=True), st.sampled_from(["", "a", "a/v"]))
def test_every_revision_is_one_place_at_most(names: list[str], directory: str) -> None:
    named = by_name({name: Ref("c") for name in names}, directory, "a")
    kept, left_out = without_rivals(named.places)
    assert len(kept) + len(left_out) == len(named.places)
    assert len({(place.package, place.name) for place in kept}) == len(kept)
    assert len({(place.package, place.directory) for place in kept}) == len({place.package for place in kept})
    for place in named.places:
        assert place.package
        assert place.directory == directory or place.directory.startswith(f"{directory}/" if directory else "")
        assert place.origin is not Origin.BRANCH
