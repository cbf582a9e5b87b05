"""Packages of Kubernetes resources with a Kptfile (KRM). What the server's side needs of facts.py without it."""

from __future__ import annotations

from typing import Final

FORMAT_VERSION: Final = 7
"""Part of every index and input hash: raise it when facts, rules or records change, and everything is read again."""
