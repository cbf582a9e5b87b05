"""What is kept of an object beside its bytes: little, and nothing that cannot be had back."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Mapping

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.api import PROJECTIONS
from cacheserver.api.kinds.revision import PACKAGE_REVISION
from cacheserver.api.selectors import EVERYTHING
from cacheserver.cache.compact import Alike, Same, Shape, named_after, shape_of
from cacheserver.cache.freshness import Freshness, ReadAt
from cacheserver.cache.snapshot import Entry, Name
from cacheserver.cache.watchcache import WatchCache
from cacheserver.model import LABEL_PACKAGE, Key, Kind, Record, Stored, encode
from cacheserver.store.keys import SERVED, object_key
from tests.fakes.feed import FakeFeed, running

_PART = st.text("ab1.-_/~%É", min_size=1, max_size=6)
_KEYS = st.builds(
    Key,
    st.sampled_from([Kind.PACKAGE, Kind.REVISION]),
    st.sampled_from(["a", "team-b"]),
    st.sampled_from(["r", "r-2"]),
    _PART,
    st.sampled_from(["1.2.3", "v1", "1.2.3/4", "1.0.0+x", "main"]),
)


@given(_KEYS)
def test_a_key_is_kept_by_its_name_or_whole(key: Key) -> None:
    written, name = object_key(key), (key.namespace, key.name)
    shape = shape_of(key.kind, written, name)
    entry = Entry(name, 1, b"", 0, 0, {}, {}, (b"", b""), 0, shape or written)
    assert entry.key == written
    assert entry.has_own_key == (named_after(key.kind, written) != name)


def test_keys_of_one_form_share_it_and_what_says_something_else_is_kept() -> None:
    def shape(package: str, revision: str, name: Name | None = None) -> Shape | None:
        key = Key(Kind.REVISION, "team", "r", package, revision)
        return shape_of(Kind.REVISION, object_key(key), name or ("team", key.name))

    assert shape("lamp", "1.2.3") is shape("vase", "1.2.4") is not None
    assert shape("a/b", "v1") is shape("Lamp", "1.2.3") is shape("lamp", "1.2.3", ("team", "r.other.1.2.3")) is None


def test_fields_share_their_keys_and_their_texts() -> None:
    same = Same()

    def fields(version: str) -> Mapping[str, str]:
        """Of a manifest that was just read: no text in it is in memory twice by chance."""
        labels = {LABEL_PACKAGE: "a-long-name-of-a-package"}
        spec = {"packageName": "a-long-name-of-a-package", "version": version, "lifecycle": "Published"}
        manifest = orjson.loads(orjson.dumps({"metadata": {"labels": labels, "name": "x"}, "spec": spec}))
        _, texts = same.labels(manifest["metadata"]["labels"])
        return PACKAGE_REVISION.projection(manifest, texts)[0]

    made = [fields(f"1.{n}.0") for n in range(100)]
    assert sys.getsizeof(made[-1]) <= 0.7 * sys.getsizeof(dict(made[-1].items()))
    assert made[0]["spec.packageName"] is made[-1]["spec.packageName"]
    assert [*made[0]] == [*made[-1]]
    assert made[0]["spec.lifecycle"] is made[-1]["spec.lifecycle"]
    assert fields("1.99.0")["spec.version"] is made[-1]["spec.version"]


def test_texts_that_are_alike_are_one_and_few_are_remembered() -> None:
    alike = Alike()
    text = "".join(["1.", "2"])
    assert alike.one(text) is text
    assert alike.one("".join(["1", ".2"])) is text
    for number in range(10_000):
        assert alike.one(str(number)) == str(number)
    assert sys.getsizeof(alike._texts) < 100_000


_TEXT = st.text('ab"\\é{}[],:', max_size=4) | st.just('"providedAPIs":[')
_API = st.fixed_dictionaries({}, optional={"kind": _TEXT, "group": _TEXT})
_STATUS = st.fixed_dictionaries(
    {},
    optional={
        "image": _TEXT,
        "nested": st.fixed_dictionaries({"providedAPIs": st.lists(_API, max_size=2)}),
        "providedAPIs": st.lists(_API, max_size=2),
        "content": st.integers(0, 3),
    },
)


@given(st.lists(_STATUS | st.none(), max_size=8))
def test_what_is_read_with_a_neighbours_list_is_what_is_there(statuses: list[dict[str, object] | None]) -> None:
    same = Same()
    for number, status in enumerate(statuses):
        for said in ({"spec": {}, "status": status}, {"spec": status}, {"spec": status, "status": statuses[0]}):
            value = orjson.dumps({"metadata": {"n": number}, **said})
            assert same.manifest(value) == orjson.loads(value)


@pytest.mark.parametrize("tail", [b"", b".5}}", b"]}}", b"}}}", b"e1}}", b"0}}"])
def test_a_neighbours_list_makes_nothing_readable_that_is_not(tail: bytes) -> None:
    same, whole = Same(), b'{"metadata":{},"spec":{},"status":{"providedAPIs":[{"kind":"A"}]}}'
    same.manifest(whole)
    with pytest.raises(orjson.JSONDecodeError):
        same.manifest(whole[:-2] + tail)


@given(st.lists(_KEYS, max_size=8), st.booleans())
def test_keys_of_neighbours_are_kept_as_each_for_itself(keys: list[Key], otherwise: bool) -> None:
    same = Same()
    for key in keys:
        name = ("a" if otherwise else key.namespace), key.name
        assert same.shape(key.kind, object_key(key), name) == shape_of(key.kind, object_key(key), name)


def _stored(number: int) -> Stored:
    package, version = f"package-{number // 20:04}", f"1.{number % 20}.0"
    key = Key(Kind.REVISION, "default", "community", package, version)
    spec = {"repository": "community", "packageName": package, "revision": f"{package}.v{version}", "version": version}
    image = f"quay.io/community/{package}-bundle@sha256:{number:064}"
    labels = {"cacheserver.dev/package": package, "cacheserver.dev/repository": "community"}
    record = Record(key, labels, orjson.dumps(spec), orjson.dumps({"image": image, "channels": [{"name": "stable"}]}))
    return Stored(key, encode(record, previous=None, now="2026-01-02T03:04:05Z"), number + 1000)


def test_beside_its_bytes_an_object_takes_little() -> None:
    """It was 930: cells, a namespace and a key of its own, fields with a table of keys each."""
    stored = [(object_key(each.key), each) for each in map(_stored, range(2_000))]
    cache = WatchCache(FakeFeed(), PROJECTIONS)
    kept = [cache.entry(each) for _, each in stored]  # what is made once for all
    kept.clear()  # and the second time it is there
    tracemalloc.start()
    try:
        kept += [cache.entry(each) for _, each in stored]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (taken - sum(sys.getsizeof(each.body) for each in kept)) / len(kept) < 640


async def test_an_object_is_its_keys_whatever_the_keys_say() -> None:
    """`a/b` and `a.b` say one name; the object of the first is called otherwise at first, and then as the other."""
    feed = FakeFeed()
    feed.write(("ns", "r/a/b", feed.value("ns", "other")), ("ns", "r/a.b", feed.value("ns", "r.a.b")))
    async with running(WatchCache(feed, PROJECTIONS)) as cache:

        async def served() -> dict[str, bytes]:
            page = await cache.list(Kind.PACKAGE, ReadAt(Freshness.CONSISTENT), selector=EVERYTHING)
            return {entry.name[1]: entry.key.removeprefix(SERVED) for run in page.runs for entry in run.entries}

        assert await served() == {"other": b"packages/ns/r/a/b", "r.a.b": b"packages/ns/r/a.b"}
        feed.write(("ns", "r/a/b", feed.value("ns", "r.a.b", {"x": "1"})))
        assert await served() == {"r.a.b": b"packages/ns/r/a/b"}
        feed.write(("ns", "r/a/b", None))
        assert await served() == {"r.a.b": b"packages/ns/r/a.b"}
        feed.write(("ns", "r/a.b", feed.value("ns", "other")))
        assert await served() == {"other": b"packages/ns/r/a.b"}
        feed.write(("ns", "r/a.b", None))
        assert await served() == {}
