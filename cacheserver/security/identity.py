"""Who asks, and what for: the types that the API shares with authentication and authorization. Decides nothing."""

from __future__ import annotations

import sys
from typing import NamedTuple

from cacheserver.slotted import slotted


class Attributes(NamedTuple):
    """`resource` empty: a path that is not a resource; then `verb` is the method in lower case.

    The selectors are as sent, on list, watch and deletecollection only (k8s: RequestInfo).
    """

    verb: str
    path: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""

    @property
    def scope(self) -> str:
        """For metrics: resource | namespace | cluster, empty for other paths."""
        if not self.resource:
            return ""
        return "resource" if self.name else "namespace" if self.namespace else "cluster"


@slotted(frozen=True)
class Identity:
    """Who asks (k8s: user.Info). extra: key and values, in the order they came. Hashable: remembered by."""

    user: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    proxied: bool = False
    """kube-apiserver vouches for it: it came through the aggregator, or is the aggregator itself."""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        texts = (self.user, self.uid, *self.groups, *(text for key, values in self.extra for text in (key, *values)))
        return 300 + sum(map(sys.getsizeof, texts)) + 8 * len(texts)


@slotted(frozen=True)
class Verdict:
    """Whether an identity may; reason: the authorizer's own words, often empty."""

    allowed: bool
    reason: str = ""
