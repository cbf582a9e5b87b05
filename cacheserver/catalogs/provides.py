"""What an object that provides APIs is found by, and that packed: for objects that cannot hold a list of all of them.

Pure. Packed by workers (bounds.py), unpacked for the watch cache (api/kinds/fields.py).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

API = tuple[str, str, str]
"""(group, version, kind)"""

MOST_APIS: Final = 10_000
"""Of one object; the largest known has 1,000. Ours: an event of one with 10,000 takes the loop 2 ms."""
MOST_BYTES: Final = 512 * 1024
"""Of all values of one object: each replica has them in memory, about twice."""


def values(apis: Iterable[API]) -> Iterator[str]:
    """KIND.GROUP and KIND.VERSION.GROUP of each; of the core group without its name."""
    for group, version, kind in apis:
        yield f"{kind}.{group}" if group else kind
        yield f"{kind}.{version}.{group}" if group else f"{kind}.{version}"


def fits(apis: Sequence[API]) -> bool:
    """Whether an object may be found by all of these."""
    return len(apis) <= MOST_APIS and sum(len(each.encode()) + 1 for each in values(apis)) <= MOST_BYTES


def pack(apis: Iterable[API]) -> str:
    """All values, a line each, sorted: with zlib and base64. Names are alike, so it is a tenth of the list."""
    # A value with a line break would pass for two, and nobody can ask for it (cache/several.py).
    found = sorted({each for each in values(apis) if each and "\n" not in each})
    return base64.b64encode(zlib.compress("\n".join(found).encode("utf-8", "surrogatepass"), 9)).decode()


def unpack(packed: str) -> str:
    """The lines of pack(), MOST_BYTES of them at most; in 1 ms at most."""
    written = zlib.decompressobj().decompress(base64.b64decode(packed), MOST_BYTES)
    return written.decode("utf-8", "surrogatepass")
