"""catalogd's HTTP API of whole servers: on the API's port, on a listener of its own, on two replicas, after a restart.

What catalogd answered for a real catalog lies in ../shared/data (golden/doors); without it that part is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import zstandard

from tests.e2e.conftest import StartServer
from tests.e2e.test_watch_correctness import empty_store
from tests.support.asking import Answer, ask
from tests.support.etcd import free_ports
from tests.support.fbc import FBCCatalog, catalog
from tests.support.server import ServerProcess
from tests.support.shared import COMMUNITY, GOLDEN
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

ANSWERED = GOLDEN / "doors"
_WITHIN_S = 180.0
"""For what takes seconds on a machine that does nothing else: a real catalog is read."""
ODD = (
    b'{"schema":"olm.package","name":"odd","defaultChannel":"stable"}\n'
    b'{"schema":"olm.channel","package":"odd","name":"stable","entries":[{"name":"odd.v1"}]}\n'
    b'{"schema":"olm.bundle","package":"odd","name":"odd.v1","image":"x.example/odd:v1","properties":[{"type":'
    b'"olm.package","value":{"version":"1.0.0","packageName":"odd"}}]}\n'
    b'{"schema":"example.odd","package":"odd","z":"\xe2\x80\xa8<&>\xf0\x9f\x98\x80","n":[1e21,1152921504606846976,1.0,'
    b'-0.0,1e-7,0.1,9007199254740993],"a":{"c":null,"b":[]}}\n'
)
ODD_LINE = (
    b'{"a":{"b":[],"c":null},"n":[1e+21,1152921504606847000,1,-0,1e-7,0.1,9007199254740992],"package":"odd",'
    b'"schema":"example.odd","z":"\\u2028<&>\xf0\x9f\x98\x80"}'
)
"""As Go's encoding/json writes what it read as float64 and text."""


@dataclass
class Doors:
    """Two replicas, the first of which has a listener for catalogs, on catalogs of a test's own."""

    servers: Sequence[ServerProcess]
    port: int
    files: FBCCatalog

    def all(self, url: str = "", path: str = "community/api/v1/all", **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(f"{url or f'http://127.0.0.1:{self.port}'}/catalogs/{path}", sent)


@pytest.fixture
async def doors(start_server: StartServer, etcd_endpoint: str, tmp_path: Path) -> AsyncIterator[Doors]:
    files = catalog(tmp_path / "community").package("app", "1.0.0", "1.1.0").package("db", "1.0.0")
    files.file("odd/catalog.json", ODD).file("loose.json", b'{"schema":"example.note"}')
    catalog(tmp_path / "private").package("secret", "1.0.0")
    broken = catalog(tmp_path / "broken").package("good", "1.0.0")
    broken.file("bad/catalog.json", b'{"schema":"olm.package","name":"bad","defaultChannel":"none"}')
    [port] = free_ports(1)
    flags = [
        *("--etcd", etcd_endpoint, "--allow-unsupported-etcd", "--interval", "10s"),
        *(flag for name in ("community", "private", "broken") for flag in ("--catalog", f"{name}={tmp_path / name}")),
        *("--publish", "community=Catalog", "--publish", "broken=Catalog", "--publish", "private=Registry"),
    ]
    if COMMUNITY.is_dir():
        flags += ["--catalog", f"real={COMMUNITY}", "--publish", "real=Catalog"]
    async with empty_store(etcd_endpoint):
        first = start_server(*flags, "--catalogs-listen", f"127.0.0.1:{port}", wait=False)
        second = start_server(*flags, wait=False)
        for server in (first, second):  # at once: whoever comes first reads a source
            server.spawn()
        found = Doors([first, second], port, files)
        for server in found.servers:
            until(functools.partial(_there, found, server.url), within_s=_WITHIN_S, otherwise=first.log)
        yield found


def _there(doors: Doors, url: str) -> bool:
    names = ["community", "broken", *(["real"] if COMMUNITY.is_dir() else [])]
    with contextlib.suppress(OSError):  # it does not listen yet
        return all(doors.all(url, f"{name}/api/v1/all").status == 200 for name in names)
    return False


async def test_clients_of_catalogd_get_what_it_would_give_them(doors: Doors, start_server: StartServer) -> None:
    first, second = doors.servers
    body = the_same_everywhere(doors)
    assert ODD_LINE in body.splitlines()
    assert len(body.splitlines()) == 4 + 3 + 4 + 1
    only_what_is_published(doors, first.url)
    packed_and_in_parts(doors, body)
    if COMMUNITY.is_dir():
        as_catalogd_answered(doors)
    changes_are_seen_by_both_within_a_second_of_each_other(doors)
    after_a_restart_it_is_the_same(doors, second)


def the_same_everywhere(doors: Doors) -> bytes:
    """On the own listener, on the API's port, on both replicas."""
    answers = [doors.all(), *(doors.all(server.url) for server in doors.servers)]
    assert {answer.status for answer in answers} == {200}
    for name in ("ETag", "Last-Modified", "Content-Length", "Content-Type"):
        assert len({answer.headers[name] for answer in answers}) == 1
    assert len({answer.body for answer in answers}) == 1
    return answers[0].body


def only_what_is_published(doors: Doors, url: str) -> None:
    assert doors.all(path="private/api/v1/all").status == 404
    assert doors.all(url, "private/api/v1/metas").status == 404
    names = {line["name"] for line in map(orjson.loads, doors.all(path="broken/api/v1/all").body.splitlines())}
    assert names == {"good", "stable", "good.v1.0.0"}
    assert ask(f"http://127.0.0.1:{doors.port}/apis").status == 404, "nothing but catalogs is there"
    assert ask(f"http://127.0.0.1:{doors.port}/metrics").status == 404


def packed_and_in_parts(doors: Doors, body: bytes) -> None:
    assert gzip.decompress(doors.all(Accept_Encoding="gzip").body) == body
    packed = doors.all(Accept_Encoding="gzip, zstd")
    assert packed.headers["Content-Encoding"] == "zstd"
    assert unzstd(packed.body) == body
    part = doors.all(Range="bytes=0-9", Accept_Encoding="gzip")
    assert (part.status, part.body, part.headers["Content-Length"]) == (206, body[:10], "10")
    whole = doors.all()
    assert doors.all(If_None_Match=whole.headers["ETag"]).status == 304
    assert doors.all(If_Modified_Since=whole.headers["Last-Modified"]).status == 304


def as_catalogd_answered(doors: Doors) -> None:
    """Byte for byte: community v4.20 has a directory a package, so the order is the walk's."""
    head, *lines = (ANSWERED / "catalogd-all.lines.tsv").read_text().splitlines()
    body = doors.all(path="real/api/v1/all").body
    assert sha256(body) == head.rpartition("sha256 ")[2]
    assert [sha256(line) for line in body.splitlines()] == [line.rpartition("\t")[2] for line in lines]
    for encoding, unpack in (("gzip", gzip.decompress), ("zstd", unzstd)):
        assert unpack(doors.all(path="real/api/v1/all", Accept_Encoding=encoding).body) == body
    for line in (ANSWERED / "catalogd-metas.tsv").read_text().splitlines():
        query, status, content_type, count, digest = line.split("\t")
        answer = doors.all(path=f"real/api/v1/metas?{query}")
        said = (str(answer.status), answer.headers["Content-Type"], str(len(answer.body.splitlines())))
        assert (*said, sha256(answer.body)) == (status, content_type, count, digest), query
    metas = doors.all(path="real/api/v1/metas?schema=olm.bundle", Accept_Encoding="zstd")
    assert len(unzstd(metas.body).splitlines()) == 803


def changes_are_seen_by_both_within_a_second_of_each_other(doors: Doors) -> None:
    first = doors.servers[0]
    seen = [doors.all().headers["Last-Modified"]]
    for version in ("1.2.0", "1.3.0"):
        before = doors.all()
        doors.files.package("app", "1.0.0", version)
        for server in doors.servers:
            server.signal(signal.SIGHUP)  # look now
        for server in doors.servers:
            until(functools.partial(changed, doors, server.url, before), within_s=_WITHIN_S, otherwise=first.log)
        assert len({doors.all(server.url).headers["ETag"] for server in doors.servers}) == 1
        after = doors.all(If_Modified_Since=before.headers["Last-Modified"], If_None_Match="")
        assert after.status == 200
        seen.append(after.headers["Last-Modified"])
    assert len(set(seen)) == 3


def changed(doors: Doors, url: str, before: Answer) -> bool:
    return doors.all(url).headers["ETag"] != before.headers["ETag"]


def after_a_restart_it_is_the_same(doors: Doors, server: ServerProcess) -> None:
    before = doors.all(server.url)
    server.stop()
    server.start()
    until(lambda: doors.all(server.url).status == 200, within_s=_WITHIN_S, otherwise=server.log)
    after = doors.all(server.url)
    assert [after.headers[name] for name in ("ETag", "Last-Modified")] == [
        before.headers[name] for name in ("ETag", "Last-Modified")
    ]
    assert after.body == before.body
    assert doors.all(server.url, If_Modified_Since=before.headers["Last-Modified"]).status == 304


def unzstd(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read()


def sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
