"""The alerts, judged by Prometheus' own promtool over series that tests/fixtures/alerts.yaml makes up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def test_alerts_are_raised_when_they_should_be(tmp_path: Path) -> None:
    promtool = os.environ.get("CACHESERVER_TEST_PROMTOOL") or shutil.which("promtool")
    if promtool is None:
        pytest.skip("NO PROMTOOL FOUND: what the alerts say was not tested (CACHESERVER_TEST_PROMTOOL names one)")
    manifest = yaml.safe_load((ROOT / "configs/kubernetes/components/monitoring/rules.yaml").read_text())
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(manifest["spec"], sort_keys=False))
    shutil.copy(ROOT / "tests/fixtures/alerts.yaml", tmp_path / "tests.yaml")
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(
            [promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
