"""Loads aiohttp for a process that serves, without the machine's authorities: it reads them twice when it is imported,
for clients that name none, which takes 75 ms and 2 MB. Ours name theirs (x509.py).

A client that trusts aiohttp's own choice after this trusts nobody. Called by server/serve.py, before all else that
imports it.
"""

from __future__ import annotations

import os
import ssl


def load() -> None:
    """Before there are other threads: for the moment, who asks the environment for authorities finds none."""
    paths = ssl.get_default_verify_paths()
    # OpenSSL: SSL_CTX_set_default_verify_paths(3); the environment comes before what was compiled in.
    names = paths.openssl_cafile_env, paths.openssl_capath_env
    kept = {name: value for name, value in os.environ.items() if name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        import aiohttp  # noqa: F401, PLC0415 - what this is for
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(kept)
