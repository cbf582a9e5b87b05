"""File-based catalogs of the Operator Lifecycle Manager (FBC). What the server's side needs of facts.py without it."""

from __future__ import annotations

from typing import Final

FORMAT_VERSION: Final = 8
"""Part of every index and input hash: raise it when facts, rules or records change, and everything is parsed again."""

PACKAGE: Final = "olm.package"
