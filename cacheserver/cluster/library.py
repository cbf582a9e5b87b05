"""Imports of kubernetes_asyncio only what reads credentials and makes requests. Used by kubeapi; nothing else imports
that package.

Its own __init__ files import 850 modules of models, which take 36 MB and 0.4 s, and nothing here uses them. So what we
want is imported under packages that are empty but for the two names it asks them for: 1.3 MB, 70 ms.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, Final

from cacheserver.slotted import slotted

_PACKAGE: Final = "kubernetes_asyncio"


@slotted(frozen=True)
class Library:
    """config: the module that fills a Configuration. RestClient: makes requests as a Configuration says."""

    Configuration: Any
    RestClient: Any
    config: Any


@cache
def load() -> Library:
    """Takes a moment, so in a thread. Raises: ImportError when kubernetes_asyncio is not installed."""
    others = _taken_out()  # if somebody has imported it as it is: those modules stay theirs
    try:
        package = _empty(_PACKAGE, None)
        client = _empty(f"{_PACKAGE}.client", package.__path__)
        configuration = import_module(f"{_PACKAGE}.client.configuration").Configuration
        client.Configuration, client.ApiClient = configuration, None  # type: ignore[attr-defined] # what config asks for
        return Library(
            configuration,
            import_module(f"{_PACKAGE}.client.rest").RESTClientObject,
            import_module(f"{_PACKAGE}.config"),
        )
    finally:
        _taken_out()
        sys.modules.update(others)


def _empty(name: str, path: Any) -> ModuleType:
    """A package that finds its modules, with nothing of its own in it."""
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"no package {name}", name=name)
    made = sys.modules[name] = ModuleType(name)
    made.__path__ = list(spec.submodule_search_locations)
    return made


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")]
    return {name: sys.modules.pop(name) for name in names}
