"""Answers that a catalog can make large: given out as they are found, whatever there is of them."""

from __future__ import annotations

import tracemalloc

import pytest

from cacheserver.catalogs.fbc.facts import Entry
from cacheserver.catalogs.fbc.registry.wire import Channel, Packed
from cacheserver.compat.registry.content import Content, NotFoundError

API = ("example.com", "v1", "Kettle")
CHANNELS, ENTRIES = 10, 1000
HELD_BYTES = 256 << 10


def content() -> Content:
    """Every entry skips `old`; the head of each channel skips all the others, too, and provides API."""
    names = [f"kettle.v1.0.{number}" for number in range(ENTRIES)]
    entries = {name: Entry(name, "", ("old",), "") for name in names}
    entries["head"] = Entry("head", "", ("old", *names), "")
    channels = {name: Channel(name, "head", None, entries) for name in (f"c{at:02}" for at in range(CHANNELS))}
    return Content("", [Packed("kettle", "c00", None, channels, {}, {API: ("head",)}, {}, (), 0)])


async def test_entries_that_replace_one_are_given_out_as_they_are_found() -> None:
    """A hundred calls held a list each of all that there are: gigabytes."""
    found, asked = 0, content()
    tracemalloc.start()
    try:
        async for batch in asked.replacements("old"):
            found += len(batch.messages)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == CHANNELS * (ENTRIES + 1)
    assert peak < HELD_BYTES, "of 10,000 entries, 0.8 MB"
    with pytest.raises(NotFoundError, match="that replace nothing"):
        [batch async for batch in asked.replacements("nothing")]


def test_entries_that_provide_an_api_are_made_while_they_are_sent() -> None:
    """All were made before the first: a second of everybody's time where there are 300,000."""
    asked = content()
    tracemalloc.start()
    try:
        batches = [len(batch.messages) for batch in asked.latest_providers(API)]
        tracemalloc.reset_peak()
        sizes = sum(batch.size for batch in asked.latest_providers(API))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(batches) == CHANNELS * (ENTRIES + 1), "what the head replaces, and each skip that is in its channel"
    assert sizes > HELD_BYTES
    assert peak < HELD_BYTES
    with pytest.raises(NotFoundError, match="that provide"):
        list(asked.latest_providers(("", "", "")))
