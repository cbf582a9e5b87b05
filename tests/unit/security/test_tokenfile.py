"""A file of tokens: read as kube-apiserver reads it, doubtful lines refused by number, and nothing of it ever said."""

from __future__ import annotations

import pytest

from cacheserver.security.followed import FILE_BYTES
from cacheserver.security.identity import Identity
from cacheserver.security.tokenfile import LINES, parse_tokens

ALICE = "31ada4fd-adec-460c-809a-9e56ceb75269"
BOB = "b" * 64
EVERYBODY = "system:authenticated"


def _lines(*lines: str) -> bytes:
    return "\n".join((*lines, "")).encode()


def test_a_line_is_token_user_uid_and_groups_in_quotes() -> None:
    tokens = parse_tokens(_lines(f'{ALICE},alice,42,"devs,ops"', f"{BOB},bob,,"))
    assert tokens.identity(ALICE) == Identity("alice", ("devs", "ops", EVERYBODY), "42")
    assert tokens.identity(BOB) == Identity("bob", (EVERYBODY,), "")


@pytest.mark.parametrize(
    "line",
    [f"{ALICE},alice,1", f'{ALICE},alice,1,""', f'"{ALICE}","alice","1",""', f"{ALICE},alice,1\r"],
)
def test_groups_may_be_left_out_and_anything_quoted(line: str) -> None:
    assert parse_tokens(_lines(line)).identity(ALICE) == Identity("alice", (EVERYBODY,), "1")


def test_one_group_needs_no_quotes_and_empty_lines_and_a_missing_last_newline_are_fine() -> None:
    tokens = parse_tokens(f"\n{ALICE},alice,1,devs\n\n{BOB},bob,2,devs".encode())
    assert len(tokens) == 2
    assert tokens.identity(BOB) == Identity("bob", ("devs", EVERYBODY), "2")


def test_a_user_may_have_several_tokens_so_that_one_can_replace_another() -> None:
    tokens = parse_tokens(_lines(f"{ALICE},alice,1", f"{BOB},alice,1"))
    assert tokens.identity(ALICE) == tokens.identity(BOB)


def test_names_of_any_alphabet_are_users_and_groups() -> None:
    tokens = parse_tokens(_lines(f'{ALICE},Zoë 中,1,"Entwicklung Süd,o"'))
    assert tokens.identity(ALICE) == Identity("Zoë 中", ("Entwicklung Süd", "o", EVERYBODY), "1")


def test_system_masters_is_what_it_is_in_kubernetes() -> None:
    found = parse_tokens(_lines(f"{ALICE},root,1,system:masters")).identity(ALICE)
    assert found is not None
    assert found.groups == ("system:masters", EVERYBODY)


@pytest.mark.parametrize(
    "token", ["", "x", ALICE[:-1], f"{ALICE}x", ALICE.upper(), f" {ALICE}", "\udcff\udcfe", "a" * 10_000]
)
def test_only_the_whole_token_counts(token: str) -> None:
    assert parse_tokens(_lines(f"{ALICE},alice,1")).identity(token) is None


def test_tokens_are_not_kept_as_they_are_written() -> None:
    """What is looked up is a digest under a key of this process: memory holds no token, time says nothing of one."""
    tokens = parse_tokens(_lines(f"{ALICE},alice,1"))
    again = parse_tokens(_lines(f"{ALICE},alice,1"))
    kept, other = ([*each._users] for each in (tokens, again))
    assert [len(digest) for digest in kept] == [32]
    assert kept != other
    assert ALICE.encode() not in b"".join(kept)


BROKEN = {
    "two columns": (f"{ALICE},alice", "2 columns"),
    "a comment": ("# tokens of the team", "1 columns"),
    "groups without quotes": (f"{ALICE},alice,1,devs,ops", "5 columns"),
    "a quote that does not end": (f'{ALICE},alice,1,"devs', "unexpected end"),
    "text behind a quote": (f'{ALICE},alice,1,"devs"x', "expected after"),
    "no token": (",alice,1", "0 characters"),
    "a token that can be guessed": ("secret,alice,1", "6 characters"),
    "a token that is not a key": (f"{'a' * 5000},alice,1", "5000 characters"),
    "a token with a space": (f"Bearer {ALICE},alice,1", "printable ASCII"),
    "a token that no header carries": (f"{ALICE}\u00fc,alice,1", "printable ASCII"),
    "a byte order mark": (f"\ufeff{ALICE},alice,1", "printable ASCII"),
    "no user": (f"{ALICE},,1", "a user is empty"),
    "a user with spaces around it": (f"{ALICE}, alice,1", "a user has spaces"),
    "a user over two lines": (f'{ALICE},"ali\nce",1', "a user has spaces"),
    "a user that moves the cursor": (f"{ALICE},al\x1b[2Jice,1", "a user has spaces"),
    "NUL": (f"{ALICE},al\0ice,1", "a user has spaces"),
    "an empty group": (f'{ALICE},alice,1,"devs,,ops"', "a group is empty"),
    "a comma behind the last group": (f'{ALICE},alice,1,"devs,"', "a group is empty"),
    "a group with a space before it": (f'{ALICE},alice,1,"devs, ops"', "a group has spaces"),
    "a uid that cannot be printed": (f"{ALICE},alice,1\x07", "uid"),
    "the group of everybody": (f"{ALICE},alice,1,{EVERYBODY}", "given by the server"),
    "the group of nobody": (f"{ALICE},alice,1,system:unauthenticated", "given by the server"),
    "the anonymous user": (f"{ALICE},system:anonymous,1", "given by the server"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_doubtful_line_is_refused_by_its_number_and_not_repeated(case: str) -> None:
    line, said = BROKEN[case]
    with pytest.raises(ValueError, match=said) as caught:
        parse_tokens(_lines(f"{BOB},bob,1", line))
    message = str(caught.value)
    assert message.startswith("line 2:" if "over two lines" not in case else "line 3:")
    for secret in (ALICE, "secret", "aaaa", BOB):
        assert secret not in message
    assert caught.value.__cause__ is None


def test_a_token_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(ValueError, match="line 3: the token of line 1 again"):
        parse_tokens(_lines(f"{ALICE},alice,1", f"{BOB},bob,2", f"{ALICE},mallory,3,system:masters"))


@pytest.mark.parametrize("content", [b"", b"\n\n\n", b"\r\n"])
def test_a_file_without_a_token_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        parse_tokens(content)


def test_bytes_that_are_not_utf_8_are_refused_with_their_line() -> None:
    with pytest.raises(ValueError, match="line 2: it is not UTF-8") as caught:
        parse_tokens(_lines(f"{BOB},bob,1") + ALICE.encode() + b",\xff\xfe,1\n")
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_lines_are_bounded() -> None:
    parse_tokens(b"".join(b"%032d,u,1\n" % number for number in range(LINES)))
    with pytest.raises(ValueError, match=f"more than {LINES} lines"):
        parse_tokens(b"".join(b"%032d,u,1\n" % number for number in range(LINES + 1)))
    with pytest.raises(ValueError, match=f"more than {LINES} lines|holds no token"):
        parse_tokens(b"\n" * FILE_BYTES)


def test_a_file_of_quotes_is_refused_as_it_is() -> None:
    for content in (b'"' * FILE_BYTES, b"," * FILE_BYTES, b'"a",' * (FILE_BYTES // 4)):
        with pytest.raises(ValueError, match=r"^line \d+: ") as caught:
            parse_tokens(content)
        assert len(str(caught.value)) < 200
