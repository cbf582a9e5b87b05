"""The status of a repository that was never read speaks of nothing that is served."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from cacheserver.config import Defaults
from cacheserver.config.repositories import from_text
from cacheserver.errors import SourceInvalidError
from cacheserver.ingest import status


@pytest.mark.parametrize(
    "phase",
    [
        status.syncing(None),
        status.failed(SourceInvalidError("nothing there"), None),
        status.suspended(None),
    ],
    ids=["syncing", "failed", "suspended"],
)
def test_nothing_is_said_to_be_served(phase: status.Phase) -> None:
    record = status.repository_record(from_text("c=/srv", Path("/"), Defaults()), phase, None, None, now=0.0)
    assert record is not None
    [degraded] = [each for each in orjson.loads(record.status)["conditions"] if each["type"] == "Degraded"]
    assert (degraded["status"], degraded["reason"]) == ("False", "NothingRead")
    assert "every package" not in degraded["message"]
