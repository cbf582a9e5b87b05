"""The HTTP API: Kubernetes get, list and watch over the watch cache, discovery, OpenAPI, content, health, metrics."""

from cacheserver.api.app import Api, bounded_server, make_server
from cacheserver.api.auth import Gate, Identity, ReviewingGate
from cacheserver.api.content import Blobs
from cacheserver.api.health import HealthCheck
from cacheserver.api.http.acceptor import Acceptor
from cacheserver.api.http.connection import require_compiled_parser
from cacheserver.api.kinds.table import PROJECTIONS
from cacheserver.api.paths import Route
from cacheserver.api.writing.shelf import Shelf

__all__ = [
    "PROJECTIONS",
    "Acceptor",
    "Api",
    "Blobs",
    "Gate",
    "HealthCheck",
    "Identity",
    "ReviewingGate",
    "Route",
    "Shelf",
    "bounded_server",
    "make_server",
    "require_compiled_parser",
]
