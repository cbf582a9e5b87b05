"""Where everything is in etcd: keys from names and back, and the encoding of a sync's state. Pure, no I/O.

served/<kind>/<namespace>/<repository>[/<package>[/<revision>]]   manifest without resourceVersion; watched; the
                                                                   parts are those of the object's name (model.Key)
served/packagechanges/<namespace>/<name>                           what was changed, sorted by time (news.py); watched
served/tick                                                        freshness mark for old etcd; watched
ingest/<namespace>/<repository>                                    what the last sync saw
blob/<sha256>/head, blob/<sha256>/<nnnn>                           content: zstd in chunks of 512 KiB; not watched
usage/<namespace>[/<repository>]                                   bytes that it has stored (usage.py)
author/draft/<namespace>/<repository>/<package>/<revision>         a draft made here (authored.py)
author/content/...                                                 changes with its content alone
author/operation/...                                               what is to be done in git with a revision
published/<namespace>/<repository>                                 what doors show of it (published.py)
number/<namespace>/<repository>/<package>                          highest number of its revisions (authored.py)
told/<namespace>/<repository>/known, .../whole                     what of its changes was told (journal.py)
claim/<name>                                                       who may write, on a lease
layout                                                             version of all this
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

import orjson

from cacheserver.model import Digest, Key, Kind, RepositoryKey
from cacheserver.slotted import slotted

PREFIX = b"/cacheserver/v1/"
SERVED = PREFIX + b"served/"
TICK = SERVED + b"tick"
INGEST = PREFIX + b"ingest/"
CLAIM = PREFIX + b"claim/"
BLOB = PREFIX + b"blob/"
USAGE = PREFIX + b"usage/"
AUTHOR = PREFIX + b"author/"
DRAFT, CONTENT, OPERATION = AUTHOR + b"draft/", AUTHOR + b"content/", AUTHOR + b"operation/"
NUMBER = PREFIX + b"number/"
PUBLISHED = PREFIX + b"published/"
TOLD = PREFIX + b"told/"
CHANGE = SERVED + Kind.CHANGE.value.encode() + b"/"
LAYOUT = PREFIX + b"layout"


_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~-]+")


@slotted(frozen=True)
class IngestState:
    """What the last complete sync of a repository saw.

    digest: of the source. index: digest of a blob with the catalog's index ("" when there is none).
    settings: what else decided the outcome (format, validation); a change of it means parse again.
    documents: digest of a blob with the documents of no package ("" when there is none).
    published: whether what doors show (published.py) is of this sync, or stays as it is; an older release said nothing.
    shown: doors that show single packages, as these say themselves (ingest/shown.py).
    """

    digest: str
    index: str = ""
    settings: str = ""
    documents: str = ""
    published: bool = False
    shown: str = ""

    @property
    def blobs(self) -> set[Digest]:
        """What has to stay in the store for this state."""
        return {Digest(digest) for digest in (self.index, self.documents) if digest}


def component(text: str) -> str:
    """Safe between slashes; `~` alone stands for the empty string, which etcd keys could not show."""
    if _PLAIN.fullmatch(text):
        return text  # as quote leaves it; nearly all are, and each write of a draft names sixteen
    return quote(text, safe="") or "~"


def component_of(written: bytes) -> str:
    """What component was given."""
    return "" if written == b"~" else unquote(written.decode())


def claim_key(name: str) -> bytes:
    """name: any text; slashes in it are in the key as well."""
    return CLAIM + quote(name, safe="/").encode()


def joined(*parts: str) -> bytes:
    """Parts, each made safe, between slashes."""
    return "/".join(map(component, parts)).encode()


def repository_prefix(kind: Kind, repository: RepositoryKey) -> bytes:
    """What the keys of a repository's packages or revisions begin with; no key of another repository does."""
    return SERVED + kind.value.encode() + b"/" + joined(repository.namespace, repository.name) + b"/"


def object_key(key: Key) -> bytes:
    """Where a served object lies. Injective; sorted bytewise, a package lies with its own."""
    base = SERVED + key.kind.value.encode() + b"/"
    if key.kind is Kind.REPOSITORY:
        return base + joined(key.namespace, key.repository)
    if key.kind is Kind.PACKAGE:
        return base + joined(key.namespace, key.repository, key.package)
    return base + joined(key.namespace, key.repository, key.package, key.revision)


def change_key(namespace: str, name: str) -> bytes:
    """Where a PackageChange lies: names sort by time, so the oldest of a namespace come first."""
    return CHANGE + joined(namespace, name)


def authored_key(prefix: bytes, key: Key) -> bytes:
    """prefix: DRAFT, CONTENT or OPERATION. key: of a package revision."""
    return prefix + joined(key.namespace, key.repository, key.package, key.revision)


def number_key(repository: RepositoryKey, package: str) -> bytes:
    """Of the highest number that a revision of the package ever had."""
    return NUMBER + joined(repository.namespace, repository.name, package)


def parse_authored_key(key: bytes) -> tuple[bytes, Key]:
    """What authored_key was given."""
    prefix = next(each for each in (DRAFT, CONTENT, OPERATION) if key.startswith(each))
    return prefix, Key(Kind.REVISION, *(component_of(part) for part in key[len(prefix) :].split(b"/")))


def parse_key(kind: Kind, key: bytes) -> Key:
    """object_key, backwards. kind: what the key says, too."""
    parts = key[len(SERVED) + len(kind.value) + 1 :].decode().split("/")
    return Key(kind, *("" if part == "~" else unquote(part) for part in parts))


def ingest_key(repository: RepositoryKey) -> bytes:
    """Where a sync's state lies."""
    return INGEST + joined(repository.namespace, repository.name)


def encode_state(state: IngestState) -> bytes:
    """As JSON."""
    return orjson.dumps(state)


def decode_state(value: bytes) -> IngestState:
    """Of this release or any older one, whose missing fields are empty."""
    raw = orjson.loads(value)
    return IngestState(
        raw["digest"],
        raw.get("index", ""),
        raw.get("settings", ""),
        raw.get("documents", ""),
        raw.get("published", False),
        raw.get("shown", ""),
    )
