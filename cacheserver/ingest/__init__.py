"""Ingestion: from each repository's source into etcd, only what changed; and the repository's status."""

from __future__ import annotations

from cacheserver.ingest.life import ServedStatusStore, StatusStore
from cacheserver.ingest.runner import Ingest
from cacheserver.ingest.space import Space
from cacheserver.ingest.sync import Outcome, SyncReport, SyncServices

__all__ = ["Ingest", "Outcome", "ServedStatusStore", "Space", "StatusStore", "SyncReport", "SyncServices"]
