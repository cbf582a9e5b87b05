"""Every error that crosses a module boundary, one tree. A message says what, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from cacheserver.slotted import slotted


class CacheServerError(Exception):
    """Root of this tree; the command line prints it without a traceback."""


class ConfigError(CacheServerError):
    """A setting, flag or manifest cannot be used. Exit code 2."""


# --- etcd ---------------------------------------------------------------------------------------------------------


class EtcdError(CacheServerError):
    """etcd refused or failed a call. Never carries an endpoint's user or password."""


class Unavailable(EtcdError):
    """No answer within the deadline, or no endpoint reachable. A write may or may not have happened: read again."""


class Compacted(EtcdError):
    """The revision asked for is gone; `compact_revision` is the oldest one that still can be read."""

    def __init__(self, message: str, *, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class FutureRevision(EtcdError):
    """The revision asked for has not happened yet on this member."""


class NoSpace(EtcdError):
    """etcd's quota is exhausted; deletes and reads still work. See docs/troubleshooting.md, etcd."""


class EtcdPermissionDenied(EtcdError):
    """The user or certificate may not do this, or is unknown."""


class EtcdStartError(EtcdError):
    """The embedded etcd could not be found, is refused by version, or did not become healthy."""


class LeaseLostError(EtcdError):
    """Another process owns the repository now; nothing was written by the call that raised this."""


# --- the host cluster ---------------------------------------------------------------------------------------------


class KubernetesError(CacheServerError):
    """kube-apiserver refused a call of ours; `code` is its HTTP status."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class KubernetesUnavailable(KubernetesError):
    """kube-apiserver gave no answer in time (`code` 0), or one that says to try again later."""


class KubernetesExpired(KubernetesError):
    """The resource version to watch from is gone (410): list again."""


# --- sources ------------------------------------------------------------------------------------------------------


class SourceError(CacheServerError):
    """A source could not be read. `reason` is the CamelCase reason of the repository's Ready condition."""

    reason = "SourceFailed"


class SourceNotFoundError(SourceError):
    """There is no such directory, image, repository or reference."""

    reason = "SourceNotFound"


class SourceNetworkError(SourceError):
    """The source did not answer, or broke off; it is tried again."""

    reason = "NetworkError"


class SourceAuthenticationError(SourceError):
    """The source wants other credentials, or any at all."""

    reason = "AuthenticationFailed"


class SpecInvalidError(SourceError):
    """The Repository object asks for something that cannot be; its spec has to change."""

    reason = "SpecInvalid"


class SecretNotFoundError(SourceError):
    """The Secret that the Repository names is not in its namespace; it is looked for again."""

    reason = "SecretNotFound"


class SecretForbiddenError(SourceError):
    """The server may not read the Secret that the Repository names: its namespace has no binding for that."""

    reason = "SecretForbidden"


class SecretInvalidError(SourceError):
    """The Secret that the Repository names holds nothing that its source can be asked with."""

    reason = "SecretInvalid"


class StorageLimitError(SourceError):
    """The repository, or its namespace, would have more bytes in etcd than it may."""

    reason = "StorageLimit"


class SourceInvalidError(SourceError):
    """What came is not what the source promised: bad digest, not a catalog image, a path out of the root."""

    reason = "SourceInvalid"


class SourceRateLimitedError(SourceError):
    """The remote asked us to come back later; `retry_after_s` is its wish, 0 when it named none."""

    reason = "RateLimited"

    def __init__(self, message: str, *, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SourceTooLargeError(SourceError):
    """A cap on bytes, entries, depth or ratio was hit; the message names the cap and its setting."""

    reason = "SourceTooLarge"


class SyncTooLongError(SourceError):
    """The source was read and applied for longer than a sync may take (`--sync-timeout`); what was served stays."""

    reason = "SyncTooLong"


# --- catalogs -----------------------------------------------------------------------------------------------------


class CatalogError(CacheServerError):
    """The catalog as a whole cannot be read (worker gone, no known format); never raised for one bad package."""


class WorkerCrashedError(CatalogError):
    """The worker process died (signal, memory, time) on the file named in the message; the pool is whole again."""


# --- watch cache --------------------------------------------------------------------------------------------------


class NotReady(CacheServerError):
    """The cache has not seen the store yet."""


class TooNew(CacheServerError):
    """`requested` was not reached within the wait; the cache is at `current`.

    unknown: etcd itself says that it has no such version (it was replaced or restored): to ask again is of no use.
    """

    def __init__(self, requested: int, current: int, *, unknown: bool = False) -> None:
        super().__init__(f"Too large resource version: {requested}, current: {current}")
        self.requested = requested
        self.current = current
        self.unknown = unknown


class StoreSlow(CacheServerError):
    """etcd is there but did not say within the wait how far it is, so nothing can be called up to date."""

    def __init__(self, waited_s: float) -> None:
        super().__init__(
            f"etcd did not say its newest version within {waited_s:.0f} s: try again, or ask with resourceVersion=0 "
            "for what is in memory"
        )


class Expired(CacheServerError):
    """`requested` lies before `oldest`, the first resource version that still can be served.

    newest: set where it lies behind that, the newest there is: etcd was replaced or restored.
    """

    def __init__(self, requested: int, oldest: int, *, newest: int = 0) -> None:
        super().__init__(
            f"unknown resource version: {requested}; etcd was replaced or restored and its newest is {newest}"
            if newest
            else f"too old resource version: {requested} ({oldest})"
        )
        self.requested = requested
        self.oldest = oldest


# --- writes of users ----------------------------------------------------------------------------------------------


@slotted(frozen=True)
class Cause:
    """One entry of a Status' details.causes. `reason` is the cause's type (FieldValueInvalid...)."""

    reason: str
    message: str
    field: str = ""


class RefusedError(CacheServerError):
    """A write that its rules, or git, refuse: nothing was changed. code, reason and message as Kubernetes has them."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        kind: str = "",
        name: str = "",
        causes: Sequence[Cause] = (),
        retry_after_s: int = 0,
    ) -> None:
        """kind, name: of what details speak of; kind: plural, or the kind itself where code is 422."""
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.kind = kind
        self.name = name
        self.causes = causes
        self.retry_after_s = retry_after_s


# --- store --------------------------------------------------------------------------------------------------------


class BlobMissingError(CacheServerError):
    """Content that an object refers to is not in etcd: it was deleted by hand. The next sync brings it back."""
