"""The etcd client (`client`: the v3 calls we make, on grpc.aio) and the embedded etcd process (`embedded`).

Imports nothing by itself. API: https://etcd.io/docs/v3.5/learning/api/.
"""

import os

# gRPC's fork handlers cannot run while its threads do, and say so on stderr at every fork (git, etcd). We only ever
# fork to exec, which needs none. gRPC reads this once, when it is first imported, so it must be set before.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
