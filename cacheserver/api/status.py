"""Refusals as Kubernetes Status objects, worded as kube-apiserver words them. Our errors are mapped to HTTP here only.

Raised anywhere below the API's edge, turned into an answer there. Knows nothing of requests.
Wording: k8s.io/apimachinery/pkg/api/errors/errors.go unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from cacheserver.errors import (
    BlobMissingError,
    CacheServerError,
    Cause,
    EtcdError,
    Expired,
    NoSpace,
    NotReady,
    RefusedError,
    StoreSlow,
    TooNew,
)
from cacheserver.model import CONFIG_GROUP, GROUP
from cacheserver.security.identity import Attributes

__all__ = ["Cause", "StatusError"]

_INCONSISTENT = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)  # k8s.io/apiserver/pkg/storage/etcd3/errors.go


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
        retry_by_itself: bool = True,
    ) -> None:
        """retry_by_itself: False keeps retry_after_s out of the header, on which clients repeat the same request."""
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details
        self.causes = causes
        self.retry_after_s = retry_after_s
        self.continue_token = continue_token
        self.allow = allow
        self._retry_by_itself = retry_by_itself

    def status(self) -> bytes:
        """The Status object as compact JSON, without a newline."""
        details: dict[str, object] = dict(self.details or {})
        if self.causes:
            details["causes"] = [
                {
                    **({"reason": c.reason} if c.reason else {}),
                    "message": c.message,
                    **({"field": c.field} if c.field else {}),
                }
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
        if details or self.details is not None:
            body["details"] = details
        body["code"] = self.code
        return orjson.dumps(body)

    def headers(self) -> bytes:
        """Extra header lines."""
        lines = b""
        if self.retry_after_s and self._retry_by_itself:
            lines += b"Retry-After: %d\r\n" % self.retry_after_s
        if self.allow:
            lines += f"Allow: {self.allow}\r\n".encode()
        if self.code == 403:  # k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go
            lines += b"X-Content-Type-Options: nosniff\r\n"
        return lines


_LINE: Final = 200
"""Characters of a client's that a refusal repeats: a line, enough to find what was meant. ours: kube repeats all."""


def brief(text: str) -> str:
    """What a client sent, to be repeated to it; a long one is cut, and says how long it was."""
    return text if len(text) <= _LINE else f"{text[:_LINE]}... ({len(text)} characters)"


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401: no credential, or none that holds."""
    # k8s.io/apiserver/pkg/endpoints/filters/authentication.go; it sends no WWW-Authenticate either
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, attributes: Attributes, reason: str = "") -> StatusError:
    """reason: the authorizer's. k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go: forbiddenMessage."""
    said = f"User {_quoted(user)} cannot {attributes.verb} "
    if attributes.resource:
        part = f"/{attributes.subresource}" if attributes.subresource else ""
        said += f"resource {_quoted(attributes.resource + part)} in API group {_quoted(attributes.group)}"
        where = attributes.namespace
        said += f" in the namespace {_quoted(where)}" if where else " at the cluster scope"
    else:
        said += f"path {_quoted(brief(attributes.path))}"
    said = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") + (f": {reason}" if reason else "")
    if not attributes.resource:
        return StatusError(403, "Forbidden", f"forbidden: {said}", details={})
    named = {"name": attributes.name} if attributes.name else {}
    what = f"{attributes.resource}.{attributes.group}" + (f" {_quoted(attributes.name)}" if named else "")
    details = {**named, "group": attributes.group, "kind": attributes.resource}
    return StatusError(403, "Forbidden", f"{what} is forbidden: {said}", details=details)


def _quoted(text: str) -> str:
    """Go's %q."""
    escaped = (
        _GO_ESCAPES.get(character)
        or (character if character.isprintable() else character.encode("unicode_escape").decode())
        for character in text
    )
    return f'"{"".join(escaped)}"'


_GO_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


def too_many_requests(message: str = "Too many requests, please try again later.") -> StatusError:
    """k8s.io/apiserver/pkg/server/filters/maxinflight.go, which says it as plain text."""
    return StatusError(429, "TooManyRequests", message, details={}, retry_after_s=1)


def header_too_large(problem: str) -> StatusError:
    """RFC 6585, section 5; Go's net/http says it as plain text."""
    return StatusError(431, "RequestHeaderFieldsTooLarge", f"the request's header is too large: {problem}")


def not_found(group: str, resource: str, name: str, hint: str = "") -> StatusError:
    """404: there is no such object. resource: plural. hint: ours, behind kube's words."""
    name = brief(name) if len(name) > 253 else name  # longer than any name
    details = {"name": name, "group": group, "kind": resource}
    return StatusError(404, "NotFound", f'{resource}.{group} "{name}" not found{hint}', details=details)


def no_such_path() -> StatusError:
    """404: nothing lies at this path."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed(group: str, resource: str, verb: str, allow: str, instead: str = "") -> StatusError:
    """allow: the Allow header; kube-apiserver omits it, RFC 9110 (15.5.6) demands it. instead: ours, what to do."""
    message = "the server does not allow this method on the requested resource"
    if verb:
        message = f'{verb} is not supported on resources of kind "{resource}.{group}"' + (instead and f": {instead}")
    details = {"group": group, "kind": resource} if resource else None
    return StatusError(405, "MethodNotAllowed", message, details=details, allow=allow)


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    """406: the client takes no media type that there is. accepted: those that there are."""
    # k8s.io/apiserver/pkg/endpoints/handlers/negotiation/errors.go
    return StatusError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    """415: the body is of another media type than those `accepted`."""
    # k8s.io/apiserver/pkg/endpoints/handlers/negotiation/errors.go
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", message)


def wrong_form(wanted: str, *, is_list: bool) -> StatusError:
    """406: the client wants one object as a list, or a list as one object. wanted: the kind that it names."""
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
    """410: the version that the client goes on from is gone; it has to list again."""
    return StatusError(410, "Expired", message)


def expired_page(fresh_token: str) -> StatusError:
    """410 for a continue token whose version is gone; the fresh token continues at the present one."""
    return StatusError(410, "Expired", _INCONSISTENT, continue_token=fresh_token)


def unavailable(message: str, retry_after_s: int = 1) -> StatusError:
    """503; a client may ask again after so many seconds."""
    return StatusError(503, "ServiceUnavailable", message, retry_after_s=retry_after_s)


def shutting_down() -> StatusError:
    """503: this server is stopping, another one may answer."""
    # k8s.io/apiserver/pkg/server/filters/watch_termination.go
    return unavailable("apiserver is shutting down.")


def timed_out() -> StatusError:
    """504: there was no answer within the time that the client gave."""
    # k8s.io/apiserver/pkg/server/filters/timeout.go
    return StatusError(504, "Timeout", "Timeout: request did not complete within the allotted timeout")


def internal() -> StatusError:
    """Says nothing of the cause: the log has it."""
    message = "Internal error occurred: see the server's log for this request's Audit-Id"
    return StatusError(500, "InternalError", message)


def internal_error(cause: str) -> StatusError:
    """A cause that the client may know. k8s.io/apimachinery/pkg/api/errors: NewInternalError."""
    return StatusError(500, "InternalError", f"Internal error occurred: {cause}", causes=[Cause("", cause)])


def too_large_resource_version(error: TooNew) -> StatusError:
    """504: the cache has not come to the version asked for; with a hint to try again where it may still come."""
    # k8s.io/apiserver/pkg/storage/errors.go: clients match the cause, older ones the message
    cause = Cause("ResourceVersionTooLarge", "Too large resource version")
    # On the header client-go asks for the same up to ten times (rest/with_retry.go) before an informer lists anew.
    message = f"Timeout: {error}"
    return StatusError(504, "Timeout", message, causes=[cause], retry_after_s=1, retry_by_itself=not error.unknown)


def from_error(error: CacheServerError) -> StatusError:
    """What a client gets for an error that the cache or the store raised."""
    match error:
        case StatusError():
            return error
        case TooNew():
            return too_large_resource_version(error)
        case StoreSlow():
            return StatusError(504, "Timeout", f"Timeout: {error}", retry_after_s=1)
        case Expired():
            return expired(str(error))
        case NotReady():
            # k8s.io/apiserver/pkg/storage/cacher: 429 with Retry-After while the cache initialises
            return StatusError(429, "TooManyRequests", str(error), retry_after_s=1)
        case RefusedError():
            return _refused(error)
        case NoSpace():
            return unavailable("etcd is full, nothing can be written now; reads go on", retry_after_s=30)
        case BlobMissingError():
            return unavailable(str(error), retry_after_s=30)
        case EtcdError():
            return unavailable(f"the content store does not answer: {error}; try again in a moment")
    return internal()


def _refused(error: RefusedError) -> StatusError:
    details: dict[str, str | int] = {}
    if error.kind:
        group = CONFIG_GROUP if error.kind == "repositories" else GROUP
        details = {**({"name": error.name} if error.name else {}), "group": group, "kind": error.kind}
    return StatusError(
        error.code,
        error.reason,
        str(error),
        details=details,
        causes=error.causes,
        retry_after_s=error.retry_after_s,
    )
