"""Beside a peer: what it is asked is encoded right, what it answers is counted right, and what is missing is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from bench.errors import BenchError
from bench.load import fbc, rpc
from bench.options import Options
from bench.peers import known, opm
from bench.processes import EtcdBinary
from bench.report.figures import Peak
from bench.report.table import Machine, Report
from cacheserver.etcd import etcd_pb2
from cacheserver.etcd.version import Version


@pytest.fixture
def report() -> Report:
    about = Machine("some CPU", 2, 0.1, 8.0, "Linux", "CPython", "3.5.30 (as given)", "0.1.0", "abcdef")
    return Report(about, {})


def options(work: Path, **given: Any) -> Options:
    return Options(EtcdBinary(work / "etcd", Version(3, 5, 30), "as given"), work, **given)


# --- who is there ---


def test_a_peer_that_was_not_measured_is_named_with_the_reason(report: Report, tmp_path: Path) -> None:
    known.note_absent(report, options(tmp_path, peers={"opm": tmp_path / "opm"}))

    said = report.table()
    assert "not measured: package-server, it was not given (--peer package-server=PATH)" in said
    assert "not measured: porch, nobody has written its adapter" in said
    assert "not measured: opm" not in said


@pytest.mark.parametrize("text", ["opm", "nobody=/bin/sh", "porch=/bin/sh", "kube-apiserver=/no/such/file"])
def test_a_peer_that_cannot_be_is_refused_by_name(text: str) -> None:
    with pytest.raises(BenchError, match="--peer"):
        known.parse(text)


def test_without_a_catalog_one_is_made_in_each_syntax(report: Report, tmp_path: Path) -> None:
    made = opm.catalogs(options(tmp_path, generated=fbc.Shape(packages=2)), report)

    assert [each.syntax for each in made] == [fbc.Syntax.YAML, fbc.Syntax.JSON]
    assert [sorted({path.suffix for path in each.path.rglob("*.*")}) for each in made] == [[".yaml"], [".json"]]


def test_catalogs_that_are_given_are_read_where_they_are(report: Report, tmp_path: Path) -> None:
    (tmp_path / "v1" / "catalog").mkdir(parents=True)
    (tmp_path / "v1" / "catalog" / "catalog.json").write_text("{}")
    (tmp_path / "community").mkdir()

    given = options(tmp_path, catalog=tmp_path / "community", more_catalogs=[tmp_path / "v1" / "catalog"])
    found = opm.catalogs(given, report)
    assert [(each.name, each.syntax) for each in found] == [
        ("community", fbc.Syntax.YAML),
        ("v1-catalog", fbc.Syntax.JSON),
    ]


# --- gRPC ---


@pytest.mark.parametrize("value", ["argocd", "x" * 127, "x" * 128, "é" * 20_000])
def test_a_message_of_one_string_is_what_protobuf_makes_of_it(value: str) -> None:
    message = etcd_pb2.WatchCreateRequest(key=value.encode())  # bytes and strings are alike on the wire
    assert rpc.text(1, value) == message.SerializeToString()


class _Service(grpc.GenericRpcHandler):
    """Two messages for a stream, one for a call, an error for what it does not know."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if call.method == "/api.Registry/ListPackages":
            return grpc.unary_stream_rpc_method_handler(self._many)
        return grpc.unary_unary_rpc_method_handler(self._one) if call.method == "/api.Registry/GetPackage" else None

    async def _one(self, request: bytes, _: object) -> bytes:
        return b"answer to " + request

    async def _many(self, request: bytes, _: object) -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"


@pytest.mark.parametrize(
    ("method", "each", "fails"), [("GetPackage", 13, False), ("ListPackages", 11, False), ("GetBundle", 0, True)]
)
async def test_a_call_is_counted_when_its_last_message_has_come(method: str, each: int, fails: bool) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        stream = method.startswith("List")
        job = rpc.Job(f"127.0.0.1:{port}", f"/api.Registry/{method}", [b"one".hex()], stream, 2, 0.1, 0.0)
        result = await rpc.drive(job)
        while not result.requests and not result.failures:  # on a machine that is busy with other things
            result = await rpc.drive(job)
    finally:
        await server.stop(None)

    assert result.body_bytes == each * result.requests
    assert (result.requests > 0, result.failures > 0) == (not fails, fails)
    assert result.last_failure.startswith("UNIMPLEMENTED") == fails


# --- memory ---


_HOLDS_AND_LETS_GO = """
for line in iter(input, "end"):
    held = bytearray(b"x" * (32 << 20)) if line == "hold" else None
    print(flush=True)
"""


@pytest.mark.processes
def test_a_peak_is_the_most_that_was_seen() -> None:
    # In a process of its own: this one may have held more before.
    command = [sys.executable, "-c", _HOLDS_AND_LETS_GO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        peak = Peak(child.pid)

        def after(line: str) -> int:
            print(line, file=child.stdin, flush=True)
            assert child.stdout is not None
            child.stdout.readline()
            peak.look()
            return peak.largest

        first = after("nothing")
        with_it, seen = after("hold"), peak.pss
        without = after("let go")
        print("end", file=child.stdin, flush=True)

    assert with_it >= first + (16 << 20)
    assert without >= with_it
    assert peak.pss >= seen > 0
    assert peak.processes >= 1
