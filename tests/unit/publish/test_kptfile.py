"""Changes to YAML leave all else as it was written."""

from __future__ import annotations

import pytest
import yaml

from cacheserver.catalogs.documents.document import DocumentError
from cacheserver.publish.kptfile import set_fields, with_merge_comments

KPTFILE = b"""\
apiVersion: kpt.dev/v1
# about
kind: Kptfile
metadata: # x
  name: old
  annotations:
    a: "1"
# where it is from
upstream:
  type: git
  git:
    repo: x
# what it is
info:
  description: foo
pipeline:
  mutators:
  - image: x
"""


def test_fields_are_set_where_they_stand_and_comments_stay() -> None:
    changed = set_fields(
        KPTFILE,
        {
            ("metadata", "name"): "new",
            ("upstream",): {"type": "git", "git": {"repo": "r.git"}},
            ("upstreamLock",): {"type": "git"},
            ("info", "readinessGates"): [{"conditionType": "a/b"}],
        },
    )
    assert changed.decode() == KPTFILE.decode().replace("name: old", "name: new").replace(
        "    repo: x\n", "    repo: r.git\nupstreamLock:\n  type: git\n"
    ).replace("description: foo\n", "description: foo\n  readinessGates:\n  - conditionType: a/b\n")


def test_a_field_is_taken_out() -> None:
    changed = set_fields(KPTFILE, {("upstream",): None, ("pipeline",): None, ("absent", "x"): None})
    assert yaml.safe_load(changed).keys() == {"apiVersion", "kind", "metadata", "info"}
    assert b"# what it is" in changed


@pytest.mark.parametrize(
    "raw",
    [
        b'{"apiVersion": "kpt.dev/v1", "metadata": {"name": "x"}}',
        b"metadata: {name: x}",
        b"metadata:\n    name: >\n      x\n",
    ],
)
def test_what_cannot_be_changed_in_place_is_written_anew(raw: bytes) -> None:
    assert yaml.safe_load(set_fields(raw, {("metadata", "name"): "y"}))["metadata"]["name"] == "y"


@pytest.mark.parametrize("raw", [b"", b"[]", b"a: b: c", b"a: " + b"[" * 10_000, b"x" * (2 << 20)])
def test_what_is_no_kptfile_is_refused(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        set_fields(raw, {("a",): 1})


def test_resources_get_kpts_merge_comment_and_nothing_else_changes() -> None:
    raw = (
        b"# top\napiVersion: v1\nkind: A\nmetadata:\n  name: a\n  namespace: n\n---\nplain: 1\n---\n- list\n---\n"
        b"apiVersion: v1\nkind: B\nmetadata:  \r\n  name: b\n---\n"
        b"apiVersion: v1\nkind: C\nmetadata: # mine\n  name: c\n"
    )
    changed = with_merge_comments(raw)
    assert changed == raw.replace(b"metadata:\n", b"metadata: # kpt-merge: n/a\n", 1).replace(
        b"metadata:  \r\n", b"metadata: # kpt-merge: /b\r\n"
    )
    assert with_merge_comments(changed) == changed
