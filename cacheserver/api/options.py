"""ListOptions of a request: parsed, validated with Kubernetes' own wording, turned into what the watch cache is asked.

Rules: k8s.io/apimachinery/pkg/apis/meta/internalversion/{validation,defaults}.go, k8s.io/apiserver/pkg/storage.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection

import orjson

from cacheserver.api.attributes import Query, truthy
from cacheserver.api.selectors import Selection, parse_selection
from cacheserver.api.status import Cause, bad_request, brief, invalid
from cacheserver.cache.snapshot import Name
from cacheserver.cache.watchcache import Freshness, ReadAt
from cacheserver.slotted import slotted

_EXACT = "Exact"
_NOT_OLDER_THAN = "NotOlderThan"
_INT64 = re.compile(r"[+-]?[0-9]{1,19}\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_CHARACTERS = 64  # every unit once, with 9 digits each
_TOKEN_CHARACTERS = 1024  # ours have some 500 at most: a namespace of 63 and a name of 253, in base64 of JSON
_INCONSISTENT = -1  # k8s.io/apiserver/pkg/storage/continue.go: "whatever the present version is"

CONSISTENT = ReadAt(Freshness.CONSISTENT)
ANY = ReadAt(Freshness.ANY)


@slotted(frozen=True)
class ListRequest:
    """One list. after: exclusive start from a continue token. paged: `at` came from a token."""

    selection: Selection
    at: ReadAt
    limit: int
    after: Name | None
    paged: bool


@slotted(frozen=True)
class WatchRequest:
    """One watch.

    since: events behind this version (None: `initial` state first, or from now on when that is None too).
    end_bookmark: close the initial events with the annotated bookmark. timeout_s: 0 leaves it to the server.
    """

    selection: Selection
    since: int | None
    initial: ReadAt | None
    bookmarks: bool
    end_bookmark: bool
    timeout_s: int


def list_request(query: Query, selectable: tuple[str, ...], namespace: str, behind: str = "") -> ListRequest:
    """behind: a second namespace that the list goes on in. Raises: StatusError 400, 422."""
    selection = parse_selection(query.get("labelSelector", ""), query.get("fieldSelector", ""), selectable)
    limit = max(_integer(query, "limit"), 0)
    version, match, token = (query.get(k, "") for k in ("resourceVersion", "resourceVersionMatch", "continue"))
    causes: list[Cause] = []
    if match:
        if not version:
            causes.append(_forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"))
        if token:
            causes.append(_forbidden("resourceVersionMatch is forbidden when continue is provided"))
        if match not in (_EXACT, _NOT_OLDER_THAN):
            causes.append(_not_supported(match, (_EXACT, _NOT_OLDER_THAN, "")))
        if match == _EXACT and version == "0":
            causes.append(_forbidden('resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if query.get("sendInitialEvents") is not None:
        text = "Forbidden: sendInitialEvents is forbidden for list"
        causes.append(Cause("FieldValueForbidden", text, "sendInitialEvents"))
    if causes:
        raise invalid("ListOptions", "meta.k8s.io", causes)
    if token:
        if version not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        at, after = decode_token(token, namespace, behind)
        return ListRequest(selection, at, limit, after, True)
    wanted = resource_version(version)
    if not version:
        return ListRequest(selection, CONSISTENT, limit, None, False)
    if not wanted:
        return ListRequest(selection, ANY, 0, None, False)  # as kube: the cache ignores limit at version 0
    if match == _EXACT or (not match and limit):
        return ListRequest(selection, ReadAt(Freshness.EXACT, wanted), limit, None, False)
    return ListRequest(selection, ReadAt(Freshness.NOT_OLDER_THAN, wanted), limit, None, False)


def watch_request(query: Query, selectable: tuple[str, ...]) -> WatchRequest:
    """Raises: StatusError 400, 422."""
    selection = parse_selection(query.get("labelSelector", ""), query.get("fieldSelector", ""), selectable)
    timeout_s = max(_integer(query, "timeoutSeconds"), 0)
    version, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    send_initial = truthy(query["sendInitialEvents"]) if "sendInitialEvents" in query else None
    causes: list[Cause] = []
    if send_initial is not None and match != _NOT_OLDER_THAN:
        causes.append(_forbidden(f"sendInitialEvents requires setting resourceVersionMatch to {_NOT_OLDER_THAN}"))
    if match:
        if send_initial is None:
            causes.append(
                _forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
            )
        if match != _NOT_OLDER_THAN:
            causes.append(_not_supported(match, (_NOT_OLDER_THAN,)))
        if query.get("continue"):
            causes.append(_forbidden("resourceVersionMatch is forbidden when continue is provided"))
    if causes:
        raise invalid("ListOptions", "meta.k8s.io", causes)
    wanted = resource_version(version)
    bookmarks = truthy(query.get("allowWatchBookmarks"))
    if send_initial is None:
        send_initial = not wanted  # internalversion/defaults.go: from 1.34 on versions "" and "0" mean a WatchList
    if not send_initial:
        return WatchRequest(selection, wanted or None, None, bookmarks, False, timeout_s)
    at = ReadAt(Freshness.NOT_OLDER_THAN, wanted) if wanted else ANY if version else CONSISTENT
    return WatchRequest(selection, None, at, bookmarks, bookmarks, timeout_s)


def get_freshness(query: Query) -> ReadAt:
    """Raises: StatusError 400."""
    version = query.get("resourceVersion", "")
    if not version:
        return CONSISTENT
    wanted = resource_version(version)
    return ReadAt(Freshness.NOT_OLDER_THAN, wanted) if wanted else ANY


def resource_version(text: str) -> int:
    """0 for the empty string. Raises: StatusError 400."""
    if text and (not text.isascii() or not text.isdigit() or len(text) > 19):
        raise bad_request(f'invalid resource version: strconv.ParseUint: parsing "{brief(text)}": invalid syntax')
    return int(text or 0)


def request_timeout_s(query: Query, longest_s: float = 60.0) -> float | None:
    """The `timeout` parameter (a Go duration), at most longest_s; None when there is none.

    Raises: StatusError 400 (k8s.io/apiserver/pkg/endpoints/filters/request_deadline.go).
    """
    text = query.get("timeout", "")
    if not text:
        return None
    if len(text) > _DURATION_CHARACTERS:
        raise bad_request(f'invalid timeout specified in the request URL - time: invalid duration "{brief(text)}"')
    seconds, at = 0.0, 1 if text[0] in "+-" else 0
    while found := _DURATION.match(text, at):
        seconds += float(found[1]) * _SECONDS[found[2]]
        at = found.end()
    if text in ("0", "+0", "-0"):
        at = len(text)
    if at != len(text) or text in ("+", "-"):
        raise bad_request(f'invalid timeout specified in the request URL - time: invalid duration "{text}"')
    if seconds <= 0 or text[0] == "-":
        return longest_s
    return min(seconds, longest_s)


def encode_token(resource_version: int, after: Name) -> str:
    """A continue token in kube's own form; clients treat it as opaque."""
    start = f"{after[0]}/{after[1]}\0"
    raw = orjson.dumps({"v": "meta.k8s.io/v1", "rv": resource_version, "start": start})
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def fresh_token(after: Name) -> str:
    """A token that goes on behind `after` at whatever version is present then."""
    return encode_token(_INCONSISTENT, after)


def decode_token(token: str, namespace: str, behind: str = "") -> tuple[ReadAt, Name]:
    """Raises: StatusError 400 for anything that encode_token did not make for this namespace (empty: all)."""
    if len(token) > _TOKEN_CHARACTERS:
        raise bad_request("invalid continue token: it is longer than any that this server gives out")
    try:
        raw = orjson.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        form, version, start = raw["v"], raw["rv"], raw["start"]
        found, slash, name = start.removesuffix("\0").partition("/")
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise bad_request("invalid continue token: it is not one that this server gave out") from exc
    if form != "meta.k8s.io/v1" or type(version) is not int or (version < 1 and version != _INCONSISTENT):
        raise bad_request("invalid continue token: unknown form or resource version")
    dots = {".", ".."} & {found, name}
    if not (found and slash and name) or "/" in name or dots or not start.endswith("\0"):
        raise bad_request("invalid continue token: the start key is not a namespace and a name")
    if namespace and found not in (namespace, behind):
        raise bad_request("invalid continue token: it belongs to another namespace")
    at = CONSISTENT if version == _INCONSISTENT else ReadAt(Freshness.EXACT, version)
    return at, (found, name)


def _integer(query: Query, name: str) -> int:
    text = query.get(name, "")
    if not text:
        return 0
    if not _INT64.match(text):
        raise bad_request(f'strconv.ParseInt: parsing "{brief(text)}": invalid syntax')
    return int(text)


def _forbidden(detail: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {detail}", "resourceVersionMatch")


def _not_supported(value: str, supported: Collection[str]) -> Cause:
    quoted = ", ".join(f'"{item}"' for item in supported)
    message = f'Unsupported value: "{brief(value)}": supported values: {quoted}'
    return Cause("FieldValueNotSupported", message, "resourceVersionMatch")
