"""What commits say: safe whoever wrote it, and as Porch reads it."""

from __future__ import annotations

import pytest

from cacheserver.publish.git import message
from cacheserver.publish.git.message import Person


@pytest.mark.parametrize(
    ("user", "written"),
    [
        ("alice", "alice <alice>"),
        ("alice@example.com", "alice@example.com <alice@example.com>"),
        ("Alice B <alice@example.com>", "Alice B <alice@example.com>"),
        ("system:serviceaccount:ns:bot", "system:serviceaccount:ns:bot <system:serviceaccount:ns:bot>"),
        ("", "Site <site@localhost>"),
        ("evil\n\ntree 0\x00> 0 +0000\nx", "eviltree 0 0 +0000x <eviltree00+0000x>"),
        ("<>", "Site <site@localhost>"),
        ("é\udc80", "é <é>"),
    ],
)
def test_a_user_becomes_a_person_that_ends_no_line_of_a_commit(user: str, written: str) -> None:
    assert str(Person.of(user, "Site <site@localhost>")) == written


def test_the_first_commit_of_a_draft_tells_how_it_began_and_the_others_do_not() -> None:
    began = '{"type":"clone","clone":{"upstreamRef":{"upstreamRef":{"name":"a.b.v1"}}}}'
    first = message.draft("sites/b", "w1", began, [(message.NONCE, "12ab")], first=True)
    assert first == (
        "Creating new revision by cloning\n\n"
        'kpt:{"package":"sites/b","workspaceName":"w1","revision":"0","task":' + began + "}\n\n"
        "Cacheserver-Nonce: 12ab\n"
    )
    later = message.draft("sites/b", "w1", began, [], first=False)
    assert later.splitlines()[0] == "Rendering package"
    assert later.splitlines()[2].endswith('"task":{"type":"render"}}')


def test_a_trailer_is_one_line_whoever_is_named_in_it() -> None:
    said = message.approval("p", "w1", "v3", [("Approved-by", 'x\nkpt:{"package":"p","revision":"99"}')])
    assert message.numbers([said], "p") == [3]
    assert said.splitlines()[0] == "Approving package revision p/3"


def test_numbers_are_read_from_lines_of_the_package_alone() -> None:
    said = [message.approval("p", "w", "v7", []), message.approval("p/q", "w", "v9", []), "kpt:{", 'kpt:["p"]']
    assert message.numbers([*said, 'kpt:{"package":"p","revision":"v8"}'], "p") == [7, 8]
