"""The one error of the program."""

from __future__ import annotations


class BenchError(Exception):
    """Nothing can be measured; the message says why and what to do."""
