"""Ingestion: from each repository's source into etcd, only what changed; and the repository's status."""

from __future__ import annotations

from cacheserver.ingest.runner import Book, Ingest, ServedBook
from cacheserver.ingest.space import Space
from cacheserver.ingest.sync import Outcome, Rooms, SyncReport

__all__ = ["Book", "Ingest", "Outcome", "Rooms", "ServedBook", "Space", "SyncReport"]
