"""pull and push, where the other side or the directory is not what one hopes for."""

from __future__ import annotations

import base64
import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cacheserver.client import files
from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Object, RefusedError
from cacheserver.client.output import Output


class Draft:
    """A connection to a server that has one draft. overtaken: a save is answered 409."""

    namespace = "default"

    def __init__(self, texts: Mapping[str, str], binaries: Mapping[str, bytes] | None = None) -> None:
        self.texts = dict(texts)
        self.binaries = dict(binaries or {})
        self.executables: list[str] = []
        self.saves = 0
        self.overtaken = False

    def get(self, path: str) -> bytes:

        return json.dumps(self._resources() if "packagerevisionresources" in path else self._revision()).encode()

    def send(self, verb: str, path: str, body: Any = None) -> Object:
        assert (verb, path.rpartition("/")[2]) == ("replace", "r.app.w")
        if self.overtaken:
            raise RefusedError("changed since", "Conflict")
        self.saves += 1
        self.texts = body["spec"]["resources"]
        self.binaries = {path: base64.b64decode(text) for path, text in body["spec"]["binaryResources"].items()}
        self.executables = body["spec"]["executables"]
        return self._resources()

    def _revision(self) -> Object:
        return {
            "kind": "PackageRevision",
            "metadata": {"name": "r.app.w"},
            "spec": {"packageName": "app"},
            "status": {},
        }

    def _resources(self) -> Object:
        binaries = {path: base64.b64encode(content).decode() for path, content in self.binaries.items()}
        spec = {"resources": self.texts, "binaryResources": binaries, "executables": self.executables}
        return {
            "metadata": {"name": "r.app.w", "uid": "u", "resourceVersion": str(self.saves)},
            "spec": spec,
            "status": {"digest": f"sha256:{hash(repr(spec))}"},
        }


def pull(draft: Draft, root: Path, *, force: bool = False) -> None:
    files.pull(
        Catalog(draft, "default"),
        Namespace(revision="r.app.w", directory=str(root) if root.parts else "", force=force),
        Output(),
    )


def push(draft: Draft, root: Path, *, force: bool = False) -> None:
    files.push(Catalog(draft, "default"), Namespace(directory=str(root), force=force), Output())


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "a//x", "./x", "", "a\0b", ".git/hooks/post-checkout", "a/.GIT/config", files.NOTE],
)
def test_no_file_is_written_outside_of_the_directory_or_where_others_look(path: str, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="not pulled"):
        pull(Draft({path: "x", "good": "x"}), tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    pull(Draft({"good": "x"}), tmp_path / "app")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "app" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClientError, match=r"link|regular"):
        pull(Draft({"good": "x", "sub/a": "x"}), tmp_path / "app")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_pull_takes_away_only_what_a_pull_brought(tmp_path: Path) -> None:
    root = tmp_path / "app"
    draft = Draft({"a": "1", "old/b": "1"})
    pull(draft, root)
    (root / "mine").write_text("m")
    draft.texts = {"a": "2"}
    pull(draft, root)
    assert {path.name for path in root.iterdir()} == {"a", "mine", files.NOTE}
    assert (root / "a").read_text() == "2"


def test_a_directory_that_was_not_pulled_is_not_overwritten_and_never_emptied(tmp_path: Path) -> None:
    root = tmp_path / "home"
    root.mkdir()
    (root / "a").write_text("mine")
    (root / "letters").write_text("mine")
    with pytest.raises(ClientError, match="a would be lost"):
        pull(Draft({"a": "1"}), root)
    pull(Draft({"a": "1"}), root, force=True)
    assert (root / "letters").read_text() == "mine"
    with pytest.raises(ClientError, match="was not pulled"):
        push(Draft({}), tmp_path)


def test_what_was_changed_here_is_not_overwritten_by_a_pull(tmp_path: Path) -> None:
    root = tmp_path / "app"
    draft = Draft({"a": "1", "b": "1", "c": "1", "gone": "1"})
    pull(draft, root)
    for name, text in (("a", "mine"), ("b", "same"), ("gone", "mine")):
        (root / name).write_text(text)
    (root / "c").chmod(0o755)
    draft.texts = {"a": "theirs", "b": "same", "c": "1"}
    with pytest.raises(ClientError, match=r": a, c, gone would be lost"):
        pull(draft, root)
    assert [(root / name).read_text() for name in ("a", "gone")] == ["mine", "mine"]


def test_a_push_keeps_bytes_and_modes_and_leaves_the_note_at_home(tmp_path: Path) -> None:
    root = tmp_path / "app"
    draft = Draft({"a": "1"}, {"b": b"\xff\0"})
    pull(draft, root)
    (root / "sub").mkdir()
    (root / "sub" / "run").write_bytes(b"#!")
    (root / "sub" / "run").chmod(0o755)
    (root / "b").write_bytes(b"\0\xfe")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("[core]")
    push(draft, root)
    assert (draft.texts, draft.binaries, draft.executables) == (
        {"a": "1", "sub/run": "#!"},
        {"b": b"\0\xfe"},
        ["sub/run"],
    )
    push(draft, root)
    assert draft.saves == 1


def test_a_push_over_what_somebody_else_saved_says_what_to_do_and_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "app"
    draft = Draft({"a": "1"})
    pull(draft, root)
    (root / "a").write_text("mine")
    draft.overtaken = True  # between the client's question and its save
    with pytest.raises(ClientError) as caught:
        push(draft, root)
    assert len(str(caught.value).splitlines()) == 3
    draft.overtaken, draft.texts = False, {"a": "theirs"}
    with pytest.raises(ClientError, match="nothing was written"):
        push(draft, root)
    assert draft.saves == 0
    push(draft, root, force=True)
    assert draft.texts == {"a": "mine"}


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_what_is_no_file_is_not_pushed(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "app"
    draft = Draft({"a": "1"})
    pull(draft, root)
    if kind == "pipe":
        os.mkfifo(root / "odd")
    else:
        (root / "odd").symlink_to("/etc/passwd" if kind == "link" else "/etc")
    with pytest.raises(ClientError, match="no regular file"):
        push(draft, root)
    assert draft.saves == 0


@pytest.mark.parametrize("package", [".ssh", "a/.config", "a/"])
def test_nothing_is_pulled_to_where_others_look_unless_somebody_says_so(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named(Draft):
        def _revision(self) -> Object:
            return {**super()._revision(), "spec": {"packageName": package}}

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClientError, match="say which it is"):
        pull(Named({"authorized_keys": "theirs"}), Path())
    assert list(tmp_path.iterdir()) == []
    pull(Named({"x": "y"}), tmp_path / package)
