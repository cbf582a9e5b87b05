"""Which files a rebased draft has, by what each side did with them."""

from __future__ import annotations

import pytest

from cacheserver.errors import RefusedError
from cacheserver.publish.package import File
from cacheserver.publish.rebase import merged

A, B, C = File(b"a"), File(b"b"), File(b"c")
A_RUN = File(b"a", executable=True)


@pytest.mark.parametrize(
    ("original", "theirs", "ours", "result"),
    [
        (A, A, A, A),
        (A, B, A, B),
        (A, A, B, B),
        (A, B, B, B),
        (A, None, A, None),
        (A, A, None, None),
        (A, None, None, None),
        (None, B, None, B),
        (None, None, B, B),
        (None, B, B, B),
        (A, A_RUN, A, A_RUN),
        (A, A, A_RUN, A_RUN),
    ],
)
def test_one_sides_change_counts_and_equal_changes_count_once(
    original: File | None, theirs: File | None, ours: File | None, result: File | None
) -> None:
    sides = [{"f": each} if each is not None else {} for each in (original, theirs, ours)]
    assert merged("r.p.w", *sides) == ({"f": result} if result is not None else {})


@pytest.mark.parametrize(
    ("original", "theirs", "ours"),
    [(A, B, C), (A, None, C), (A, B, None), (None, B, C), (A, A_RUN, B)],
)
def test_what_both_changed_differently_is_a_conflict(
    original: File | None, theirs: File | None, ours: File | None
) -> None:
    sides = [{"f": each, "same": A} if each is not None else {"same": A} for each in (original, theirs, ours)]
    with pytest.raises(RefusedError) as refused:
        merged("r.p.w", *sides)
    assert (refused.value.code, [cause.field for cause in refused.value.causes]) == (422, ["spec.resources[f]"])


def test_twenty_conflicts_are_named_and_the_others_counted() -> None:
    sides = [{f"f{number:02}": File(text) for number in range(30)} for text in (b"o", b"t", b"u")]
    with pytest.raises(RefusedError) as refused:
        merged("r.p.w", *sides)
    assert len(refused.value.causes) == 21
    assert "10 more files" in refused.value.causes[-1].message
