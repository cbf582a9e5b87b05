"""The views of a process: what turns a stored kind's state and events into a served kind's, by kind and form."""

from __future__ import annotations

import functools
import weakref
from typing import Final

from cacheserver.api.content import Blobs
from cacheserver.api.forms import Form, Shape
from cacheserver.api.kinds.resource import Resource
from cacheserver.cache.view import View

_MEMO_BYTES: Final = 512 << 10
"""Of a view of one namespace, of which there are as many as are watched: a crowd is served without it (channel.py)."""


class Views:
    """One per process. A view is made when it is first asked for."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._views: dict[tuple[str, bool], View] = {}
        # Anybody can ask for any namespace: kept while somebody watches it.
        self._of_namespaces = weakref.WeakValueDictionary[tuple[str, bool, str], View]()

    def of(self, resource: Resource, form: Form, namespace: str = "") -> View | None:
        """What shows `resource` in this form; None where the stored objects are what is served. namespace: of the
        request, which only a view that is gathered (kinds/resource.py: Gathered) asks for."""
        declared = resource.view
        if declared is None:
            return None
        whole = form.shape is Shape.OBJECT  # else nothing needs to be read for it
        if resource.gathered is not None:
            key = (resource.full_name, whole, namespace)
            found = self._of_namespaces.get(key)
            if found is None:
                shown = resource.gathered.shown(namespace)
                complete = functools.partial(shown.complete, self._blobs) if whole else None
                found = View(shown.make, complete, memo_bytes=_MEMO_BYTES, weigh=resource.gathered.weigh)
                self._of_namespaces[key] = found
            return found
        view = self._views.get((resource.full_name, whole))
        if view is None:
            complete = functools.partial(declared.complete, self._blobs) if whole else None
            view = self._views[resource.full_name, whole] = View(declared.make, complete)
        return view
