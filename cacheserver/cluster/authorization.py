"""Who may what, as the host cluster's authorizers say: one SubjectAccessReview a question, its answer kept 10 s.

Form: k8s.io/apiserver/plugin/pkg/authorizer/webhook/webhook.go. What is always allowed is the API's to say.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from cacheserver.cluster.kubeapi import KubeAPI, Object
from cacheserver.cluster.remembered import REVIEWS_A_TURN, Remembered
from cacheserver.security.identity import Attributes, Identity, Verdict
from cacheserver.turns import Turns

KEEP_S: Final = 10.0  # k8s.io/apiserver/pkg/server/options/authorization.go: AllowCacheTTL and DenyCacheTTL
_MOST_BYTES: Final = 8 << 20  # some 6,000 answers; k8s.io/apiserver/plugin/pkg/authorizer/webhook has 8,192 of any size
_KEPT_BELOW: Final = 10_000  # bytes that a caller controls; the same file: maxControlledAttrCacheSize

# One requirement each, nothing escaped, nothing quoted. What this does not match goes unreviewed by selector, which
# only an authorizer that allows some selections and not others would notice, as a broader question.
_PATH: Final = r"[A-Za-z0-9_./-]+"
_VALUE: Final = r"[A-Za-z0-9_.-]*"
_EQUALITY: Final = re.compile(rf"({_PATH})\s*(!=|==|=)\s*({_VALUE})\Z")
_SET: Final = re.compile(rf"({_PATH})\s+(in|notin)\s*\(\s*({_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)\Z")
_EXISTENCE: Final = re.compile(rf"(!?)\s*({_PATH})\Z")
_TERMS: Final = re.compile(r",(?![^(]*\))")

_Key = tuple[Identity, tuple[str, ...]]


class Authorization:
    """Implements the API's authorizer."""

    def __init__(self, api: KubeAPI, now: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._answers: Remembered[_Key, Verdict] = Remembered(keep_s=KEEP_S, most_bytes=_MOST_BYTES, now=now)
        self._turns = Turns(REVIEWS_A_TURN)

    async def review(self, identity: Identity, attributes: Attributes) -> Verdict:
        """Raises: KubernetesError when the host cluster does not say."""
        # A resource is what it is however its path was written.
        key = (identity, (attributes.verb, *attributes[2:]) if attributes.resource else attributes[:2])
        known = self._answers.get(key)
        if known is not None:
            return known
        size = 600 + sum(map(sys.getsizeof, attributes)) + identity.size
        if size > _KEPT_BELOW:
            size = _MOST_BYTES  # which is not kept
        return await self._answers.look_up(
            key,
            lambda: self._review(identity, attributes),
            lambda verdict: size + sys.getsizeof(verdict.reason),
        )

    async def _review(self, identity: Identity, attributes: Attributes) -> Verdict:
        await self._turns.spend(1, identity.user)
        return await self._api.subject_access_review(review_spec(identity, attributes))

    async def close(self) -> None:
        """Cancels reviews under way."""
        await self._answers.close()


def review_spec(identity: Identity, attributes: Attributes) -> Object:
    """The spec of a SubjectAccessReview; what is empty is left out."""
    spec: Object = {
        "user": identity.user,
        "groups": list(identity.groups),
        "uid": identity.uid,
        "extra": {key: list(values) for key, values in identity.extra},
    }
    if attributes.resource:
        asked: Object = {
            "namespace": attributes.namespace,
            "verb": attributes.verb,
            "group": attributes.group,
            "version": attributes.version,
            "resource": attributes.resource,
            "subresource": attributes.subresource,
            "name": attributes.name,
            "fieldSelector": _selector(_field_requirements(attributes.field_selector)),
            "labelSelector": _selector(_label_requirements(attributes.label_selector)),
        }
        spec["resourceAttributes"] = {key: value for key, value in asked.items() if value}
    else:
        spec["nonResourceAttributes"] = {"path": attributes.path, "verb": attributes.verb}
    return {key: value for key, value in spec.items() if value}


_Requirement = tuple[str, str, tuple[str, ...]]


def _selector(requirements: Sequence[_Requirement]) -> Object:
    return (
        {
            "requirements": [
                {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
                for key, operator, values in requirements
            ]
        }
        if requirements
        else {}
    )


def _field_requirements(text: str) -> Sequence[_Requirement]:
    """None at all when one of them is not simple."""
    found: list[_Requirement] = []
    for term in text.split(",") if text else ():
        equality = _EQUALITY.match(term)
        if equality is None:
            return ()
        found.append((equality[1], "NotIn" if equality[2] == "!=" else "In", (equality[3],)))
    return found


def _label_requirements(text: str) -> Sequence[_Requirement]:
    """None at all when one of them is not simple."""
    found: list[_Requirement] = []
    for term in map(str.strip, _TERMS.split(text)) if text else ():
        if equality := _EQUALITY.match(term):
            found.append((equality[1], "NotIn" if equality[2] == "!=" else "In", (equality[3],)))
        elif chosen := _SET.match(term):
            values = tuple(sorted({value.strip() for value in chosen[3].split(",")}))
            found.append((chosen[1], "In" if chosen[2] == "in" else "NotIn", values))
        elif existence := _EXISTENCE.match(term):
            found.append((existence[2], "DoesNotExist" if existence[1] else "Exists", ()))
        else:
            return ()
    return found
