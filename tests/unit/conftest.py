"""Which unit tests start servers, workers, kubectl or openssl, or try many inputs: `make unit` leaves them out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

_HERE: Final = Path(__file__).parent
_SLOW: Final = (
    "api/test_wire.py",
    "catalogs/test_fbc_rules.py",
    "catalogs/test_fuzz.py",
    "catalogs/test_krm_directory.py",
    "catalogs/test_parse.py",
    "cluster/",
    "sources/test_bombs.py",
    "sources/test_git_fuzz.py",
    "sources/test_layers.py",
    "test_cli.py",
    "test_door.py",
    "test_manifests.py",
    "test_tls.py",
    "test_x509.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and item.path.relative_to(_HERE).as_posix().startswith(_SLOW):
            item.add_marker(pytest.mark.processes)
