"""The load makers count right and what they generate is always the same: figures rest on both."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson
import pytest
import yaml

from bench import sources
from bench.load import authors, fbc, fill, http, krm, watchers
from bench.report.figures import latency
from bench.report.table import Row, Sample
from cacheserver import model
from cacheserver.model import Kind

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nb\r\nhello world\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
EVENT = b'{"type":"MODIFIED","object":{"status":{"stamp":"%020d","a":{"b":"c"}}}}\n'


# --- what a connection receives ---


@pytest.mark.parametrize(("response", "size"), [(PLAIN, 5), (CHUNKED, 14), (EMPTY, 0)])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_a_response_is_complete_at_its_last_byte_however_it_is_cut(response: bytes, size: int, piece: int) -> None:
    reader = http.ResponseReader()
    for _ in range(2):  # the second one follows on the same connection
        pieces = [response[at : at + piece] for at in range(0, len(response), piece)]
        done = [reader.feed(bytearray(each) + b"stale", len(each)) for each in pieces]
        assert done == [False] * (len(pieces) - 1) + [True]
        assert (reader.status, reader.body_bytes) == (int(response[9:12]), size)
        reader.reset()


@pytest.mark.parametrize(
    "response", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nbody", PLAIN + b"more", b"nonsense\r\n\r\n"]
)
def test_what_is_no_countable_response_is_an_error(response: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        http.ResponseReader().feed(bytearray(response), len(response))


@pytest.mark.parametrize("piece", [1, 5, 17, 40, 100_000])
def test_events_and_stamps_are_counted_once_however_the_stream_is_cut(piece: int) -> None:
    stream = b"".join(b"%x\r\n%b\r\n" % (len(EVENT % n), EVENT % n) for n in range(1, 51))
    stamps: array[int] = array("q")
    reader = watchers.StreamReader(stamps)
    for at in range(0, len(stream), piece):
        part = bytearray(stream[at : at + piece])
        reader.feed(part + b"}\nstale", 0, len(part))
    assert reader.events == 50
    assert list(stamps[::2]) == list(range(1, 51))


# --- against a server ---


@asynccontextmanager
async def serving(answer: Callable[[str, asyncio.StreamWriter], bool]) -> AsyncIterator[str]:
    """A server that calls answer(path, writer) at each request, until that says to hang up."""

    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while answer((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode(), writer):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*(each for each in handlers if each)), 5)  # the clients are gone


async def test_load_counts_every_answer_and_tells_good_from_bad() -> None:
    served: list[str] = []

    def answer(path: str, writer: asyncio.StreamWriter) -> bool:
        served.append(path)
        writer.write(EMPTY if path == "/bad" else CHUNKED)
        return True

    async with serving(answer) as url:
        result = await http.drive(http.Job(url, ["/a", "/bad", "/b"], connections=3, seconds=0.1, warm_up_s=0.0))

    assert result.requests + result.failures == pytest.approx(len(served), abs=6)  # some are under way at each end
    assert result.requests == pytest.approx(2 * result.failures, abs=6)
    assert result.body_bytes == 14 * result.requests
    assert result.last_failure == "status 204"
    assert 0 < result.p50_ms <= result.p99_ms <= result.max_ms


async def test_load_counts_a_lost_connection_as_a_failure() -> None:
    def answer(path: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(PLAIN)
        return False

    async with serving(answer) as url:
        result = await http.drive(http.Job(url, ["/"], connections=2, seconds=0.05, warm_up_s=0.0))

    assert result.failures == 2
    assert result.last_failure.startswith("connection lost")


async def test_watchers_count_events_on_every_stream_and_see_one_that_ends() -> None:
    opened = 0

    def answer(path: str, writer: asyncio.StreamWriter) -> bool:
        nonlocal opened
        opened += 1
        event = EVENT % opened
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (2 * len(event), 2 * event))
        return opened != 3

    async with serving(answer) as url:
        job = watchers.Job(url, "/watch", streams=3, longest_s=0.1, sample_every=1)
        ready: asyncio.Queue[watchers.Ready] = asyncio.Queue()
        result = await watchers.follow(job, ready=ready, stop=asyncio.Event())

    assert (result.events, result.fewest, result.most, result.ended) == (6, 2, 2, 1)
    assert sorted(stamp for stamp, _ in result.received) == [1, 1, 2, 2, 3, 3]


# --- what is generated ---


def test_the_same_seed_gives_the_same_catalog() -> None:
    def content(seed: int) -> bytes:
        return fbc.encode(fbc.package(fbc.Shape(seed=seed), 3), fbc.Syntax.JSON)

    assert content(1) == content(1)
    assert content(1) != content(2)
    # In other processes and Pythons too.
    assert hashlib.sha256(content(1)).hexdigest().startswith("faee3de9a0b2726e")


@pytest.mark.parametrize("syntax", list(fbc.Syntax))
def test_a_changed_catalog_differs_in_one_bundles_image_only(syntax: fbc.Syntax) -> None:
    documents = fbc.package(fbc.Shape(packages=5), 3)
    before = fbc.encode(documents, syntax)
    after = fbc.changed(before)

    (at,) = [index for index in range(len(before)) if before[index] != after[index]]
    assert len(before) == len(after)
    image = str(next(document["image"] for document in documents if document["schema"] == "olm.bundle"))
    assert image.encode() in before
    assert image.encode() in before[max(0, at - 200) : at + 2]


def test_objects_have_the_size_asked_for_and_differ() -> None:
    shape = fill.Shape(packages=20, repositories=4, object_bytes=3400)
    made = [fill.record(shape, number) for number in range(shape.packages)]
    encoded = [model.encode(each, previous=None, now="2026-01-02T03:04:05Z") for each in made]

    assert {len(model.with_resource_version(Kind.PACKAGE, each, 10**6)) for each in encoded} == {3400}
    assert len({each.name for each in made}) == shape.packages
    assert fill.record(shape, 7) == made[7]
    stamped = orjson.loads(fill.record(shape, 7, stamp=42).status)
    assert stamped["stamp"] == f"{42:020d}"


def test_a_renamed_package_is_another_one_everywhere() -> None:
    documents = fbc.package(fbc.Shape(packages=5), 3)
    name = str(documents[0]["name"])
    copied = list(yaml.safe_load_all(sources.renamed(fbc.encode(documents, fbc.Syntax.YAML), 7)))

    assert {document.get("package", document["name"]) for document in copied} == {f"{name}-copy7"}
    bundles = {document["name"] for document in copied if document["schema"] == "olm.bundle"}
    entries = {entry["name"] for document in copied for entry in document.get("entries", ())}
    assert bundles == entries
    assert all(bundle.startswith(f"{name}-copy7.v") for bundle in bundles)


@pytest.mark.processes
def test_the_same_seed_gives_the_same_packages_in_git(tmp_path: Path) -> None:
    one, two = (krm.write(krm.Shape(packages=6), tmp_path / name) for name in ("one", "two"))
    refs = one.git("for-each-ref")
    assert refs == two.git("for-each-ref")
    assert refs.count("refs/tags/") > 3


# --- figures ---


def test_percentiles_are_measured_values_by_nearest_rank() -> None:
    found = latency(range(1, 101))
    assert (found.count, found.p50_ms, found.p99_ms, found.max_ms) == (100, 50_000, 99_000, 100_000)
    assert latency([]).count == 0


def test_a_rows_figure_is_the_median_of_its_rounds() -> None:
    row = Row("q", [Sample(value, "s", {"p": value * 2}) for value in (3.0, 1.0, 9.0)])
    assert (row.value, row.part("p")) == (3.0, 6.0)


def test_a_draft_has_ten_files_of_which_a_save_changes_one() -> None:
    first, second = authors.files("sites/berlin", 1), authors.files("sites/berlin", 2)
    assert len(first) == authors.FILES
    assert {path for path in first if first[path] != second[path]} == {"number.yaml"}
