"""Refusals as Kubernetes Status objects, worded as kube-apiserver words them. Our errors are mapped to HTTP here only.

Raised anywhere below the API's edge, turned into an answer there. Knows nothing of requests.
Wording: k8s.io/apimachinery/pkg/api/errors/errors.go unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from cacheserver.errors import BlobMissingError, CacheServerError, EtcdError, Expired, NotReady, TooNew

_INCONSISTENT = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)  # k8s.io/apiserver/pkg/storage/etcd3/errors.go


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of details.causes. `reason` is the cause's type (FieldValueInvalid...)."""

    reason: str
    message: str
    field: str = ""


class StatusError(CacheServerError):
    """A refusal, complete: HTTP code, Status body, headers."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, str | int] | None = None,
        causes: Sequence[Cause] = (),
        retry_after_s: int = 0,
        continue_token: str = "",
        allow: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = dict(details or {})
        self.causes = causes
        self.retry_after_s = retry_after_s
        self.continue_token = continue_token
        self.allow = allow

    def status(self) -> bytes:
        """The Status object as compact JSON, without a newline."""
        details: dict[str, object] = dict(self.details)
        if self.causes:
            details["causes"] = [
                {"reason": c.reason, "message": c.message, **({"field": c.field} if c.field else {})}
                for c in self.causes
            ]
        if self.retry_after_s:
            details["retryAfterSeconds"] = self.retry_after_s
        body: dict[str, object] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.continue_token} if self.continue_token else {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
        }
        if details:
            body["details"] = details
        body["code"] = self.code
        return orjson.dumps(body)

    def headers(self) -> bytes:
        """Extra header lines."""
        lines = b""
        if self.retry_after_s:
            lines += b"Retry-After: %d\r\n" % self.retry_after_s
        if self.allow:
            lines += f"Allow: {self.allow}\r\n".encode()
        return lines


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def not_found(group: str, resource: str, name: str) -> StatusError:
    details = {"name": name, "group": group, "kind": resource}
    return StatusError(404, "NotFound", f'{resource}.{group} "{name}" not found', details=details)


def no_such_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed(group: str, resource: str, verb: str, allow: str) -> StatusError:
    """allow: the Allow header; kube-apiserver omits it, RFC 9110 (15.5.6) demands it."""
    message = "the server does not allow this method on the requested resource"
    if verb:
        message = f'{verb} is not supported on resources of kind "{resource}.{group}"'
    details = {"group": group, "kind": resource} if resource else None
    return StatusError(405, "MethodNotAllowed", message, details=details, allow=allow)


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    # k8s.io/apiserver/pkg/endpoints/handlers/negotiation/errors.go
    return StatusError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    # k8s.io/apiserver/pkg/endpoints/handlers/negotiation/errors.go
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", message)


def wrong_form(wanted: str, *, is_list: bool) -> StatusError:
    # k8s.io/apiserver/pkg/endpoints/handlers/response.go
    found = "a list" if is_list else "not a list"
    return StatusError(406, "NotAcceptable", f"you requested {wanted}, but the requested object is {found}")


def invalid(kind: str, group: str, errors: Sequence[Cause]) -> StatusError:
    """errors: field errors; the message repeats all of them."""
    texts = [f"{error.field}: {error.message}" for error in errors]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    message = f'{kind}.{group} "" is invalid: {joined}'
    return StatusError(422, "Invalid", message, details={"group": group, "kind": kind}, causes=errors)


def expired(message: str = "The resourceVersion for the provided list is too old.") -> StatusError:
    return StatusError(410, "Expired", message)


def expired_page(fresh_token: str) -> StatusError:
    """410 for a continue token whose version is gone; the fresh token continues at the present one."""
    return StatusError(410, "Expired", _INCONSISTENT, continue_token=fresh_token)


def unavailable(message: str, retry_after_s: int = 1) -> StatusError:
    return StatusError(503, "ServiceUnavailable", message, retry_after_s=retry_after_s)


def shutting_down() -> StatusError:
    # k8s.io/apiserver/pkg/server/filters/watch_termination.go
    return unavailable("apiserver is shutting down.")


def timed_out() -> StatusError:
    # k8s.io/apiserver/pkg/server/filters/timeout.go
    return StatusError(504, "Timeout", "Timeout: request did not complete within the allotted timeout")


def internal() -> StatusError:
    """Says nothing of the cause: the log has it."""
    message = "Internal error occurred: see the server's log for this request's Audit-Id"
    return StatusError(500, "InternalError", message)


def too_large_resource_version(error: TooNew) -> StatusError:
    # k8s.io/apiserver/pkg/storage/errors.go: clients match the cause, older ones the message
    cause = Cause("ResourceVersionTooLarge", "Too large resource version")
    return StatusError(504, "Timeout", f"Timeout: {error}", causes=[cause], retry_after_s=1)


def from_error(error: CacheServerError) -> StatusError:
    """What a client is told for an error that the cache or the store raised."""
    match error:
        case StatusError():
            return error
        case TooNew():
            return too_large_resource_version(error)
        case Expired():
            return expired(str(error))
        case NotReady():
            # k8s.io/apiserver/pkg/storage/cacher: 429 with Retry-After while the cache initialises
            return StatusError(429, "TooManyRequests", str(error), retry_after_s=1)
        case BlobMissingError():
            return unavailable(str(error), retry_after_s=30)
        case EtcdError():
            return unavailable(f"the content store does not answer: {error}; try again in a moment")
    return internal()
