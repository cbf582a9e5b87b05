"""Packages and images that go elsewhere: whole or not at all, wherever the answers come from."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cacheserver.client.catalog import Catalog
from cacheserver.client.connection import ClientError, Object, RefusedError
from cacheserver.client.mirroring import export, images
from cacheserver.client.output import Output


class Served:
    """A connection to a server with these packages, each of one document, whose images are named after it."""

    namespace = "default"

    def __init__(self, *packages: str, document: str = "") -> None:
        self._packages = packages
        self._document = document
        self.asked: list[str] = []

    def get(self, path: str) -> bytes:
        self.asked.append(path)
        parts = urlsplit(path)
        if parts.path.endswith("/packages"):
            wanted = parse_qs(parts.query)["fieldSelector"][0].partition("=")[2]
            found = [self._package(name) for name in self._packages if name == wanted]
            return json.dumps({"items": found, "metadata": {}}).encode()
        name, _, what = parts.path.partition("/packages/")[2].partition("/")
        if name.removeprefix("r.") not in self._packages:
            raise RefusedError(f'packages "{name}" not found', "NotFound")
        if what == "images":
            return json.dumps({"status": {"images": [f"reg.io/{name}", "reg.io/proxy"]}}).encode()
        if what == "export":
            form = parse_qs(parts.query)["format"][0]
            return (self._document or f"{form} of {name}\n").encode()
        return json.dumps(self._package(name.removeprefix("r."))).encode()

    def send(self, verb: str, path: str, body: object = None) -> Object:
        raise AssertionError((verb, path, body))

    def _package(self, name: str) -> Object:
        return {"kind": "Package", "metadata": {"name": f"r.{name}"}, "spec": {"packageName": name}}


def asked(*packages: str, directory: str = "", channel: str = "", start: str = "") -> Namespace:
    said = {"packages": packages, "revisions": packages, "all": True}
    return Namespace(**said, directory=directory, channel=channel, start=start)


def test_several_packages_are_one_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    served = Served("a", "b")
    assert export(Catalog(served, "default"), asked("a", "b", "a", channel="stable", start="1.0.0"), Output()) == 0
    printed = capsys.readouterr()
    assert printed.out == "json of r.a\njson of r.b\n"
    assert printed.err == "1/2 r.a\n2/2 r.b\n"
    exports = [parse_qs(urlsplit(path).query) for path in served.asked if "/export" in path]
    assert exports[0] == {"channel": ["stable"], "from": ["1.0.0"], "format": ["json"]}


def test_each_package_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "catalog.yaml").write_text("of yesterday")
    assert export(Catalog(Served("a", "b"), "default"), asked("a", "b", directory=str(tmp_path)), Output("yaml")) == 0
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()} == {
        "a/catalog.yaml": "yaml of r.a\n",
        "b/catalog.yaml": "yaml of r.b\n",
    }
    with pytest.raises(ClientError, match="twice"):
        export(Catalog(Served("a"), "default"), asked("a", directory=str(tmp_path)), Output("json"))


def test_where_one_is_refused_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for directory in ("", str(tmp_path / "new")):
        with pytest.raises(RefusedError):
            export(Catalog(Served("a"), "default"), asked("a", "gone", directory=directory), Output())
        assert capsys.readouterr().out == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "A", "", ".x", "a\n"])
def test_no_answer_leads_out_of_the_directory(name: str, tmp_path: Path) -> None:
    class Lying(Served):
        def _package(self, _: str) -> Object:
            return {"kind": "Package", "metadata": {"name": "r.a"}, "spec": {"packageName": name}}

    with pytest.raises(ClientError, match="folder"):
        export(Catalog(Lying("a"), "default"), asked("a", directory=str(tmp_path / "here")), Output())
    assert [*tmp_path.iterdir()] == []


def test_what_is_printed_steers_no_terminal_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.dumps({"a": "\u202e\u009b31m\x7f красный"}, ensure_ascii=False) + "\n"
    export(Catalog(Served("a", document=document), "default"), asked("a"), Output())
    printed = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in printed)
    assert json.loads(printed) == json.loads(document)
    assert "красный" in printed


def test_images_of_packages_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert images(Catalog(Served("a", "b"), "default"), asked("a", "b"), Output(quiet=True)) == 0
    assert capsys.readouterr().out.split() == ["reg.io/proxy", "reg.io/r.a", "reg.io/r.b"]
    images(Catalog(Served("a"), "default"), asked("a"), Output("json"))
    assert json.loads(capsys.readouterr().out) == {"images": ["reg.io/proxy", "reg.io/r.a"]}
