"""Four times the input is four times the work, whatever its shape: counted in lines run and bytes copied."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import orjson
import pytest

from cacheserver.catalogs import ParseLimits
from cacheserver.catalogs.documents import splitter
from cacheserver.catalogs.documents.document import JSON, DocumentError, Object
from cacheserver.catalogs.documents.goyaml import load
from cacheserver.catalogs.fbc import bundle, facts, rules
from cacheserver.catalogs.krm.facts import Origin, Revision
from cacheserver.catalogs.krm.index import Known, KnownPackage

LIMITS = replace(ParseLimits(), containers=10_000_000)


def work(act: Callable[[], object]) -> int:
    """Lines of this project's code that `act` runs."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if "cacheserver" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return line

    sys.settrace(line)
    try:
        act()
    finally:
        sys.settrace(None)
    return count


def assert_linear(make: Callable[[int], Callable[[], object]], size: int = 100) -> None:
    small, large = work(make(size)), work(make(4 * size))
    assert large < 5 * small, (small, large)


class _Counted(str):
    """Text that counts the characters taken out of it."""

    __slots__ = ()

    copied = 0

    def __getitem__(self, key: Any) -> str:
        found = super().__getitem__(key)
        _Counted.copied += len(found)
        return found


class _Raw(bytes):
    def decode(self, *_: Any, **__: Any) -> str:
        return _Counted(super().decode())


@pytest.mark.parametrize("between", ["", " \n\t"])
def test_objects_that_share_a_line_are_taken_out_once(between: str) -> None:
    _Counted.copied = 0
    raw = _Raw(f"{{}}{between}".encode() * 5000)
    assert list(splitter.objects(raw)) == [b"{}"] * 5000
    assert _Counted.copied <= len(raw)


def test_a_part_without_separators_is_not_read_beyond_its_end() -> None:
    # What lies behind the part would make another document of it, were it seen.
    assert list(splitter.yaml_pieces(b"a: b\n" * 10 + b"---\nc: d\n", 5, 20, 1 << 20)) == []
    [piece] = splitter.yaml_pieces(b"a: b\n" * 4 + b"---\nc: d\n", 5, 21, 1 << 20)
    assert piece.raw == b"c: d\n"


def test_tag_directives_are_refused_before_libyaml_compares_each_with_all() -> None:
    with pytest.raises(DocumentError, match="256 %TAG directives") as caught:
        load(b"".join(b"%%TAG !x%d! y\n" % at for at in range(80_000)) + b"--- a\n", LIMITS)
    assert caught.value.reason == "TooManyDirectives"


def test_manifests_of_one_name_are_numbered_from_the_last() -> None:
    def document(count: int) -> Callable[[], object]:
        manifest: JSON = {
            "type": "olm.bundle.object",
            "value": {"data": "eyJraW5kIjoiQSIsIm1ldGFkYXRhIjp7Im5hbWUiOiJiIn19"},
        }
        said: Object = {"schema": "olm.bundle", "properties": [manifest] * count}
        return lambda: bundle.read(said, "lamp", "lamp.v1.0.0", LIMITS)

    assert_linear(document, 300)


def test_a_numbered_name_gives_way_to_one_that_is_written_so() -> None:
    names = ["b", "b-2", "b", "b"]
    manifests = [orjson.dumps({"kind": "A", "metadata": {"name": name}}) for name in names]
    said: Object = {
        "properties": [
            {"type": "olm.bundle.object", "value": {"data": base64.b64encode(one).decode()}} for one in manifests
        ]
    }
    paths = [path for path, _ in bundle.read(said, "lamp", "lamp.v1.0.0", LIMITS).files]
    assert paths == sorted(["bundle.json", *(f"manifests/a-{name}.json" for name in ("b", "b-2", "b-3", "b-4"))])


def test_a_known_revision_is_found_without_looking_at_the_others() -> None:
    def lookups(count: int) -> Callable[[], object]:
        revisions = [Revision(f"v{at}", Origin.TAG, "t") for at in range(count)]
        known = Known({"app": KnownPackage("", revisions)})
        return lambda: [known.revision("app", revision.name) for revision in revisions]

    assert_linear(lookups)


@pytest.mark.parametrize("shape", ["chain", "skips", "channels", "cycle", "stranded"])
def test_a_package_is_judged_in_linear_work(shape: str) -> None:
    def judged(count: int) -> Callable[[], object]:
        documents = [rules.Placed(facts.Facts(subject), "f", 1, 1) for subject in _package(shape, count)]
        return lambda: rules.check("lamp", documents)

    assert_linear(judged)


def _package(shape: str, count: int) -> list[facts.Subject]:
    names = [f"lamp.v{at}.0.0" for at in range(count)]
    said: list[facts.Subject] = [facts.Package("lamp", "c0")]
    said += [facts.Bundle("lamp", name, "x", versions=(("lamp", f"{at}.0.0", ""),)) for at, name in enumerate(names)]
    before = dict(zip(names[1:], names, strict=False))
    if shape == "channels":
        entry = (facts.Entry(names[0]),)
        return [*said[:2], *(facts.Channel("lamp", f"c{at}", entry) for at in range(count))]
    if shape == "skips":
        return [
            *said,
            facts.Channel(
                "lamp", "c0", (facts.Entry(names[-1], skips=tuple(names[:-1])), *map(facts.Entry, names[:-1]))
            ),
        ]
    if shape == "cycle":
        before[names[0]] = names[-2]
    if shape == "stranded":
        before[names[-1]] = ""
        before |= {name: name for name in names[:-1]}
    entries = tuple(facts.Entry(name, before.get(name, "")) for name in names)
    return [*said, facts.Channel("lamp", "c0", entries)]


@pytest.mark.parametrize(
    "piece",
    ["- &a{0} [x]\n", "- {{a{0}: b}}\n", "k{0}: v\n", "k: v\n", "- 'x'\n- \"y\"\n- 1.5\n", "- !x y\n", "# c\n- a\n"],
)
def test_yaml_of_any_shape_is_built_in_linear_work(piece: str) -> None:
    def built(count: int) -> Callable[[], object]:
        raw = "".join(piece.format(at) for at in range(count)).encode()
        return lambda: load(raw, LIMITS)

    assert_linear(built)
