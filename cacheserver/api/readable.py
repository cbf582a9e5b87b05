"""Answers for people: indented JSON and YAML. Slower by far than ready bytes, so done in slices between other work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import yaml

from cacheserver.api.forms import item_maker
from cacheserver.api.http.negotiate import Encoding
from cacheserver.api.http.reply import Stream
from cacheserver.api.render import Listing
from cacheserver.cache.snapshot import Run
from cacheserver.catalogs.documents import gorules
from cacheserver.catalogs.documents.document import DocumentError

_YAML_MOST = 1 << 20  # bytes of JSON; PyYAML writes about 1 MB/s
_SLICE = 64 << 10  # bytes of JSON printed in one turn of the loop: about 1 ms


def readable(body: bytes, encoding: Encoding, *, pretty: bool) -> bytes:
    """A small JSON document in the encoding; unchanged when that is plain JSON."""
    if encoding is Encoding.YAML:
        return to_yaml(body)
    if pretty:
        return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return body


class _Dumper(yaml.CSafeDumper):
    """Texts of several lines as blocks, so that files read as files; quoted what Go would not read as the text it is:
    PyYAML writes `1e3` and `y` plain, for its own YAML has no such number and no such boolean."""


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _is_other_in_go(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_other_in_go(text: str) -> bool:
    if text[:1] not in gorules.SUSPECT:
        return False
    try:
        return gorules.plain(text) != text
    except DocumentError:
        return True


_Dumper.add_representer(str, _represent_text)


def to_yaml(body: bytes) -> bytes:
    """Keys sorted, as sigs.k8s.io/yaml writes them."""
    text: bytes = yaml.dump(orjson.loads(body), Dumper=_Dumper, encoding="utf-8", allow_unicode=True, width=1 << 20)
    return text


async def send_list(
    stream: Stream,
    listing: Listing,
    encoding: Encoding,
    now: int,
    whole: Callable[[Run], Awaitable[Run]] | None = None,
) -> None:
    """Write the list and the clean end.

    whole: makes each run of the listing before it is written, for lists that are not in memory.
    Ours: a YAML list over 1 MiB comes as indented JSON, which is YAML too: the YAML writer would take seconds.
    """
    envelope, runs = listing.envelope, listing.runs
    make = item_maker(listing.resource, listing.form)
    if encoding is Encoding.YAML and whole is None:
        items = (make(entry, now)[0] for run in runs for entry in run.entries)
        batch = list(items) if sum(e.size for run in runs for e in run.entries) <= _YAML_MOST else None
        if batch is not None:
            body = b"".join((envelope.head, b",".join(batch), envelope.tail))
            await stream.write(await asyncio.to_thread(to_yaml, body))
            stream.end()
            return
    head = orjson.dumps(orjson.loads(envelope.head + envelope.tail), option=orjson.OPT_INDENT_2)
    head = head[: -len(b"[]\n}")]
    await stream.write(head + b"[")
    separator = b"\n    "
    gathered: list[bytes] = []
    size = 0
    for run in runs:
        for entry in (run if whole is None else await whole(run)).entries:
            item, _ = make(entry, now)
            printed = orjson.dumps(orjson.loads(item), option=orjson.OPT_INDENT_2)
            gathered += (separator, printed.replace(b"\n", b"\n    "))
            separator = b",\n    "
            size += len(item)
            if size >= _SLICE:
                await stream.write(b"".join(gathered))
                await asyncio.sleep(0)
                gathered, size = [], 0
    gathered.append(b"\n  ]\n}\n" if separator.startswith(b",") else b"]\n}\n")
    await stream.write(b"".join(gathered))
    stream.end()
