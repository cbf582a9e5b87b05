"""The limit of open files is raised at start, and what it is too low for is said. In processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import logging, resource, sys
from cacheserver.server.limits import connections_that_fit, watches_that_fit
logging.basicConfig(stream=sys.stderr)
soft, hard = map(int, sys.argv[1:3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(watches_that_fit(1000), connections_that_fit(3000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("soft", "hard", "answer", "told"),
    [(256, 2048, "1000 1536 2048", False), (256, 1024, "512 512 1024", True), (64, 100, "1 50 100", True)],
)
def test_as_many_watches_and_connections_as_there_are_files_for(soft: int, hard: int, answer: str, told: bool) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, str(soft), str(hard)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == answer
    assert ("the limit of open files (ulimit -Hn) is too low" in done.stderr) == told
