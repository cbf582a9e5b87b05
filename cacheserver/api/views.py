"""The views of a process: what turns a stored kind's state and events into a served kind's, by kind and form."""

from __future__ import annotations

import functools

from cacheserver.api.content import Blobs
from cacheserver.api.forms import Form, Shape
from cacheserver.api.kinds.resource import Resource
from cacheserver.cache.view import View


class Views:
    """One per process. A view is made when it is first asked for."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._views: dict[tuple[str, bool], View] = {}

    def of(self, resource: Resource, form: Form) -> View | None:
        """What shows `resource` in this form; None where the stored objects are what is served."""
        declared = resource.view
        if declared is None:
            return None
        whole = form.shape is Shape.OBJECT  # else nothing needs to be read for it
        view = self._views.get((resource.plural, whole))
        if view is None:
            complete = functools.partial(declared.complete, self._blobs) if whole else None
            view = self._views[resource.plural, whole] = View(declared.make, complete)
        return view
