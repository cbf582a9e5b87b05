"""What applications may say of a draft, and which gates that opens. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from cacheserver.errors import RefusedError
from cacheserver.publish import conditions
from cacheserver.publish.conditions import CONDITIONS_MOST, MESSAGE_MOST, Told
from cacheserver.store.authored import Condition, Draft

NOW, BEFORE = "2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z"
HERE, EARLIER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TYPE = "example.com/validated"
PUSHED = {"type": "Pushed", "status": "True", "reason": "Done", "message": "m", "lastTransitionTime": BEFORE}
CLAIMED = {"type": "example.com/claimed", "status": "True"}


def said(status: str = "True", digest: str = HERE, kind: str = TYPE, message: str = "") -> Condition:
    return Condition(kind, status, "Because", message, BEFORE, digest)


def manifest(*told: Condition, gates: tuple[str, ...] = (), kptfile_gates: tuple[str, ...] = ()) -> dict[str, Any]:
    status: dict[str, Any] = {"content": {"digest": HERE}, "revisionNumber": 0}
    status["conditions"] = conditions.served([CLAIMED, PUSHED], told)
    status["readinessGates"] = [{"conditionType": gate} for gate in kptfile_gates]
    spec = {"readinessGates": [{"conditionType": gate} for gate in gates]}
    return {"metadata": {"name": "edge.app.w1"}, "spec": spec, "status": status}


def written(wanted: object, *told: Condition, alone: bool = False) -> Told:
    return conditions.read(manifest(*told), wanted, told, NOW, alone=alone)


def refused(wanted: object, *told: Condition) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        written(wanted, *told)
    assert caught.value.code == 422
    return [cause.field for cause in caught.value.causes]


# --- what is written ---


def test_a_condition_speaks_of_the_content_that_there_is_and_begins_now() -> None:
    wanted = {"conditions": [{"type": TYPE, "status": "True", "reason": "Fine"}]}
    assert written(wanted) == (Condition(TYPE, "True", "Fine", "", NOW, HERE),)


def test_its_time_is_that_of_the_last_change_of_its_status() -> None:
    for status, since in (("True", BEFORE), ("False", NOW)):
        [found] = written({"conditions": [{"type": TYPE, "status": status, "message": "other"}]}, said())
        assert (found.status, found.since) == (status, since)


def test_a_condition_of_content_that_was_read_earlier_says_so() -> None:
    wanted = {"conditions": [{"type": TYPE, "status": "True", "observedDigest": EARLIER}]}
    assert written(wanted)[0].digest == EARLIER


@pytest.mark.parametrize("leave_out", ["", "observedDigest"])
def test_what_is_read_and_sent_back_stays_what_it_was(leave_out: str) -> None:
    """Also by a client that knows the standard fields alone: it does not say for others that theirs is true of now."""
    old, other = said(digest=EARLIER), said("False", EARLIER, "example.com/b")
    sent = [{k: v for k, v in each.items() if k != leave_out} for each in manifest(old, other)["status"]["conditions"]]
    for each in sent:
        if each["type"] == "example.com/b":
            each["status"] = "True"
    changed = Condition("example.com/b", "True", "Because", "", NOW, HERE if leave_out else EARLIER)
    assert written({"conditions": sent}, old, other) == (old, changed)


def test_what_a_kptfile_says_oddly_is_in_nobodys_way_who_sends_it_back() -> None:
    found = manifest()
    found["status"]["conditions"].append({"type": "has spaces", "status": "True"})
    sent = [*found["status"]["conditions"], {"type": TYPE, "status": "True"}]
    assert [each.type for each in conditions.read(found, {"conditions": sent}, (), NOW, alone=False)] == [TYPE]


def test_in_a_whole_status_what_is_not_named_goes_and_what_is_the_servers_stays() -> None:
    assert written({"conditions": []}, said()) == ()
    assert written({}, said()) == ()


def test_alone_a_condition_is_written_beside_those_of_others() -> None:
    other = said(kind="example.com/b")
    found = written({"conditions": [{"type": TYPE, "status": "True"}]}, other, alone=True)
    assert [each.type for each in found] == ["example.com/b", TYPE]


def test_what_a_kptfile_claims_is_overridden_by_who_may_say_it() -> None:
    wanted = {"conditions": [{"type": "example.com/claimed", "status": "False"}]}
    [found] = told = written(wanted)
    assert found.status == "False"
    [shown] = [each for each in conditions.served([CLAIMED, PUSHED], told) if each["type"] == "example.com/claimed"]
    assert shown["status"] == "False"


# --- what is refused ---


@pytest.mark.parametrize(
    "kind", ["Pushed", "Diverged", "Ready", "Rendered", "cacheserver.dev/x", "a.cacheserver.dev/x"]
)
def test_what_the_server_says_nobody_else_says(kind: str) -> None:
    assert refused({"conditions": [{"type": kind, "status": "True"}]}) == ["status.conditions[0].type"]


@pytest.mark.parametrize(
    ("field", "condition"),
    [
        ("type", {"type": "a b", "status": "True"}),
        ("type", {"status": "True"}),
        ("type", "True"),
        ("type", {"type": f"{'x' * 300}/y", "status": "True"}),
        ("status", {"type": TYPE}),
        ("status", {"type": TYPE, "status": True}),
        ("status", {"type": TYPE, "status": ["True"]}),
        ("reason", {"type": TYPE, "status": "True", "reason": "has spaces"}),
        ("reason", {"type": TYPE, "status": "True", "reason": "x" * 1025}),
        ("message", {"type": TYPE, "status": "True", "message": "x" * (MESSAGE_MOST + 1)}),
        ("message", {"type": TYPE, "status": "True", "message": {"a": 1}}),
        ("lastTransitionTime", {"type": TYPE, "status": "True", "lastTransitionTime": "yesterday"}),
        ("observedGeneration", {"type": TYPE, "status": "True", "observedGeneration": -1}),
        ("observedGeneration", {"type": TYPE, "status": "True", "observedGeneration": True}),
        ("observedGeneration", {"type": TYPE, "status": "True", "observedGeneration": 2**70}),
        ("observedDigest", {"type": TYPE, "status": "True", "observedDigest": "sha256:1"}),
    ],
)
def test_what_is_no_condition_is_refused_by_field(field: str, condition: object) -> None:
    assert refused({"conditions": [condition]}) == [f"status.conditions[0].{field}"]


def test_a_type_stands_once() -> None:
    assert refused({"conditions": [{"type": TYPE, "status": "True"}] * 2}) == ["status.conditions[1].type"]


@pytest.mark.parametrize("wanted", [None, [], "x", {"conditions": {}, "revisionNumber": 7}])
def test_what_is_no_status_is_refused(wanted: object) -> None:
    assert refused(wanted)


@pytest.mark.parametrize(
    "field", ["content", "revisionNumber", "publishedBy", "operation", "lastOperation", "base", "proposedBy"]
)
def test_of_a_status_conditions_alone_are_written(field: str) -> None:
    assert refused({field: {"digest": EARLIER}}) == [f"status.{field}"]


@pytest.mark.parametrize(("count", "message"), [(CONDITIONS_MOST + 1, ""), (10_000, ""), (16, "x" * MESSAGE_MOST)])
def test_conditions_are_bounded_in_number_and_bytes(count: int, message: str) -> None:
    listed = [{"type": f"example.com/c{n}", "status": "True", "message": message} for n in range(count)]
    assert refused({"conditions": listed}) == ["status.conditions"]


def test_a_thousand_bad_ones_are_told_of_twenty() -> None:
    assert len(refused({"conditions": [{"type": f"a b{n}"} for n in range(1000)]})) == 20


# --- gates ---


def approves(*told: Condition, **gates: tuple[str, ...]) -> str:
    """Why it is not approved; empty: it is."""
    draft = Draft("n", "app", "", conditions=told)
    try:
        conditions.check_gates("edge.app.w1", manifest(*told, **gates), draft)
    except RefusedError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize("where", ["gates", "kptfile_gates"])
def test_a_gate_is_open_when_its_condition_is_true_of_what_there_is(where: str) -> None:
    assert approves(said(), **{where: (TYPE,)}) == ""
    for closed, why in (
        ((), "nobody has written it"),
        ((said("False", message="no limits"),), "False: no limits"),
        ((said("Unknown"),), "Unknown"),
        ((said(digest=EARLIER),), "True of other content"),
    ):
        refusal = approves(*closed, **{where: (TYPE,)})
        assert TYPE in refusal
        assert why in refusal


def test_every_closed_gate_is_named() -> None:
    refusal = approves(said(), gates=(TYPE, "example.com/a"), kptfile_gates=("example.com/b",))
    assert ("example.com/a (" in refusal, "example.com/b (" in refusal, f"{TYPE} (" in refusal) == (True, True, False)


def test_what_the_kptfile_says_opens_no_gate() -> None:
    """Its author writes it, and would open his own gate."""
    assert "True in the Kptfile alone" in approves(gates=("example.com/claimed",))


def test_a_draft_that_git_alone_has_has_no_open_gate() -> None:
    with pytest.raises(RefusedError):
        conditions.check_gates("n", manifest(gates=("example.com/claimed",)), None)


def test_gates_that_were_not_read_are_closed() -> None:
    found = manifest()
    found["status"]["truncated"] = ["readinessGates"]
    with pytest.raises(RefusedError, match="more readiness gates than are read"):
        conditions.check_gates("n", found, None)


def test_the_server_says_itself_what_is_its_own_and_a_kptfile_does_not() -> None:
    assert approves(gates=("Pushed",)) == ""
    assert conditions.of_kptfile([CLAIMED, PUSHED, {"type": "Ready", "status": "True"}]) == [CLAIMED]
