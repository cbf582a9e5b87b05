"""What is read of a Kptfile, and what is refused or left out."""

from __future__ import annotations

import pytest

from cacheserver.catalogs import ParseLimits
from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.catalogs.krm.facts import Condition, Lock
from cacheserver.catalogs.krm.kptfile import Kptfile, read
from tests.support.krm import kptfile

LIMITS = ParseLimits()
HEAD = b"apiVersion: kpt.dev/v1\nkind: Kptfile\n"
GIT = {"repo": "https://git.example/x.git", "directory": "/app", "ref": "app/v1"}


def of(**parts: object) -> Kptfile:
    return read(kptfile(**parts), LIMITS)  # type: ignore[arg-type] # fields of a Kptfile, whatever their type


def test_name_summary_keywords_and_gates_are_taken() -> None:
    info = {
        "description": "# App\n\nRuns the app.\n\nMore.",
        "keywords": ["web", "web", 7, "app"],
        "readinessGates": [{"conditionType": "porch.kpt.dev/ready"}, {"conditionType": ""}, "x"],
    }
    found = of(metadata={"name": "my-app"}, info=info)
    assert found.display_name == "my-app"
    assert found.summary == "Runs the app."
    assert found.keywords == ("web", "app")
    assert found.readiness_gates == ("porch.kpt.dev/ready",)


def test_labels_that_are_none_are_left_out() -> None:
    labels = {
        "team": "net",
        "example.com/tier": "",
        "number": 1,
        "long": "x" * 64,
        "bad value": "x",
        "spaced": "a b",
        "UPPER.com/x": "y",
        "/x": "y",
        "a/b/c": "y",
    }
    assert of(metadata={"labels": labels}).labels == (("example.com/tier", ""), ("team", "net"))


def test_a_package_cannot_speak_for_the_server() -> None:
    labels = {"cacheserver.dev/latest": "true", "sub.cacheserver.dev/x": "y", "mycacheserver.dev/x": "y"}
    assert of(metadata={"labels": labels}).labels == (("mycacheserver.dev/x", "y"),)


def test_conditions_keep_the_first_of_each_type() -> None:
    conditions = [
        {"type": "Ready", "status": "True", "reason": "Rendered", "message": "fine"},
        {"type": "Ready", "status": "False"},
        {"type": "Bare", "status": False},
        {"type": "Odd", "status": "Perhaps"},
        {"status": "True"},
        "text",
    ]
    found = of(status={"conditions": conditions}).conditions
    assert found == (Condition("Ready", "True", "Rendered", "fine"), Condition("Bare", "False"))


def test_an_upstream_lock_needs_an_upstream() -> None:
    lock = {"type": "git", "git": {**GIT, "commit": "c0ffee"}}
    assert of(upstreamLock=lock).upstream_lock is None
    found = of(upstream={"type": "git", "git": GIT}, upstreamLock=lock)
    assert found.upstream_lock == Lock("https://git.example/x.git", "/app", "app/v1", "c0ffee")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "NotAKptfile"),
        (b"# nothing\n", "NotAKptfile"),
        (b"- a\n", "NotAKptfile"),
        (b"apiVersion: kpt.dev/v1\nkind: Package\n", "NotAKptfile"),
        (b"apiVersion: v1\nkind: Kptfile\n", "NotAKptfile"),
        (HEAD + b"metadata: [\n", "YAMLSyntax"),
        (HEAD + b"\ta: b\n", "YAMLSyntax"),
        (HEAD + b"a: \xff\n", "InvalidUTF8"),
        (HEAD + b"a: " + b"[" * 50_000, "TooDeep"),
        (HEAD + b"x: &a [" + b"y," * 5000 + b"]\nz: [" + b"*a," * 500 + b"]\n", "AliasExpansion"),
        (HEAD + b"x: " + b"y" * (16 << 20), "TooLarge"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_kptfile_is_refused_by_name(raw: bytes, reason: str) -> None:
    with pytest.raises(DocumentError) as refused:
        read(raw, LIMITS)
    assert refused.value.reason == reason


@pytest.mark.parametrize("field", ["metadata", "info", "status", "upstream", "upstreamLock"])
@pytest.mark.parametrize("value", [7, "x", [1], None, {"git": 1, "labels": [], "conditions": {}, "keywords": {}}])
def test_what_is_only_shown_may_have_any_shape(field: str, value: object) -> None:
    written = {"apiVersion": "kpt.dev/v1", "kind": "Kptfile", field: value}
    assert read(repr(written).replace("None", "null").encode(), LIMITS).conditions == ()


def test_a_duplicate_key_is_told() -> None:
    assert read(HEAD + b"info:\n  description: a\n  description: b\n", LIMITS).duplicate_keys == (("description", 5),)
