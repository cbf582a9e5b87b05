"""aiohttp without authorities of its own, and nothing else without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Authority

_SAYS = """
import os
from cacheserver.security import library, x509
library.load()
from aiohttp import connector
print(len(connector._SSL_CONTEXT_VERIFIED.get_ca_certs()), len(connector._SSL_CONTEXT_UNVERIFIED.get_ca_certs()))
print(len(x509.outgoing_context().get_ca_certs()))
print(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
"""


@pytest.mark.processes
def test_aiohttp_has_no_authorities_of_its_own_and_what_we_trust_is_what_the_environment_names(tmp_path: Path) -> None:
    named = str(Authority(tmp_path).certificate)
    environ = {**os.environ, "SSL_CERT_FILE": named}
    environ.pop("SSL_CERT_DIR", None)
    said = subprocess.run([sys.executable, "-c", _SAYS], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["0 0", "1", f"{named} None"]


@pytest.mark.processes
def test_what_serves_is_imported_without_aiohttp_so_that_it_can_be_loaded_so() -> None:
    said = "import sys, cacheserver.cli.main, cacheserver.server.serve; print('aiohttp' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
