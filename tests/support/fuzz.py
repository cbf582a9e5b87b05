"""How long property tests that feed nonsense look: seconds in the suite, as long as you like on demand.

CACHESERVER_TEST_FUZZ: examples a test (40 by default; 10,000 take minutes). See CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hypothesis import HealthCheck, settings

EXAMPLES: Final = int(os.environ.get("CACHESERVER_TEST_FUZZ", "40"))
FUZZ: Final = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def within(most_bytes: int) -> Iterator[None]:
    """Fails when the block held more than so many bytes of Python's memory at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= most_bytes, f"{peak} bytes held at once; {most_bytes} were expected at most"
