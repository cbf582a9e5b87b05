"""What every test of connections may ask for."""

from __future__ import annotations

import pytest


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments for a client to take its last answer are short; for clients that have sent all that they send.

    Ask for it before a world, which is made with one of them.
    """
    monkeypatch.setattr("cacheserver.api.http.connection._FAREWELL_S", 0.0)
    monkeypatch.setattr("cacheserver.api.app.LINGERING_S", 0.05)
