"""Repositories as people write them: `NAME=SOURCE` on a command line, manifests in files, objects in a cluster.

The fields are those of Repository.spec, under the same rules everywhere; what a place cannot give (Secrets to a file,
this machine's directories to a cluster) is refused by name. One RepositoryConfig is all that ingestion needs to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import orjson

from cacheserver import names
from cacheserver.config import doors, policy, quantities, sources
from cacheserver.config.doors import Door
from cacheserver.config.sources import GitRef, RefKind, SourceSpec
from cacheserver.errors import ConfigError
from cacheserver.model import ANNOTATION_ALLOW_EMPTY, CONFIG_GROUP, GROUP, VERSION, Format, RepositoryKey
from cacheserver.slotted import slotted

if TYPE_CHECKING:
    from cacheserver.config.documents import Value

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

API_VERSION = f"{CONFIG_GROUP}/{VERSION}"
CATALOG_SOURCE = "core.rukpak.io/v1beta1"
INTERVAL = quantities.duration(least_s=10, most_s=7 * 24 * 3600)

# What `kubectl get -o yaml` adds; accepted so that its output can be fed back, and without effect.
_SERVER_METADATA = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences")
PUSH_AFTER = quantities.duration(least_s=0, most_s=30)
_PUSH_AFTER_S = 5.0
_ANYBODY = policy.Approval()
_SPEC = (
    "source",
    "format",
    "deployment",
    "access",
    "approval",
    "drafts",
    "render",
    "versioning",
    "interval",
    "suspend",
    "validation",
    "publish",
)
_SOURCES = ("directory", "git", "oci", "ociLayout")
_NEEDS_CLUSTER = ("secretRef", "caSecretRef")
# Kubernetes: a Secret's name is a DNS subdomain. Checked by us too, since it becomes a part of a URL's path.
_SECRET_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


class Validation(StrEnum):
    """What a package that breaks a rule does to its neighbours."""

    ISOLATE = "Isolate"
    """The package is rejected with a reason; the rest is served."""
    STRICT = "Strict"
    """Nothing changes until the whole catalog is right."""


class FormatChoice(StrEnum):
    """`Repository.spec.format` as written."""

    AUTO = "Auto"
    FBC = "FBC"
    KRM = "KRM"


class Access(StrEnum):
    """What is done with a repository."""

    READ_ONLY = "ReadOnly"
    READ_WRITE = "ReadWrite"
    """Packages are drafted, approved and published through the API: commits are pushed to it."""


@slotted(frozen=True)
class RepositoryConfig:
    """One repository and how to treat it.

    format: None lets the content decide (`Auto`). interval_s: seconds between two looks at the source, 10 at least.
    deployment: its packages are deployed from (KRM). writable: packages are written to it, not only read: a branch of
    a git repository, KRM. push_after_s: seconds without a further save after which a draft is pushed. approval:
    what is asked of who approves. render: whether what is proposed has to be rendered.
    versioning: what published ones are called. suspend: the source is not asked; what is there stays.
    allow_empty: a catalog without packages may replace one that has some. publish: the doors that its catalog is
    published through (FBC); of them only PackageManifest changes what a sync makes. Of an object in a cluster also:
    generation (metadata.generation; 0 where we count it ourselves), uid, the names of the Secrets in its namespace
    with credentials and with the authority to trust, and leaving: it is being deleted, and takes nothing new.
    """

    key: RepositoryKey
    source: SourceSpec
    format: Format | None = None
    deployment: bool = False
    interval_s: float = 600
    suspend: bool = False
    validation: Validation = Validation.ISOLATE
    allow_empty: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    uid: str = ""
    secret: str = ""
    ca_secret: str = ""
    writable: bool = False
    push_after_s: float = _PUSH_AFTER_S
    leaving: bool = False
    approval: policy.Approval = _ANYBODY
    render: policy.Render = policy.Render.IF_POSSIBLE
    versioning: policy.Versioning = policy.Versioning.INTEGER
    publish: frozenset[Door] = frozenset()

    def spec_json(self) -> bytes:
        """`Repository.spec` as it is served: every field, defaults included, in a fixed order."""
        return orjson.dumps(
            {
                "source": _source_fields(self.source),
                "format": self.format.value if self.format else FormatChoice.AUTO.value,
                "deployment": self.deployment,
                "access": (Access.READ_WRITE if self.writable else Access.READ_ONLY).value,
                **(self._writing() if self.writable else {}),
                "interval": quantities.show_duration(self.interval_s),
                "suspend": self.suspend,
                "validation": self.validation.value,
                # Left out where it is empty: else an upgrade would change every Repository there is.
                **({"publish": doors.in_order(self.publish)} if self.publish else {}),
            }
        )

    def _writing(self) -> dict[str, object]:
        """Of repositories that are written to."""
        return {
            "approval": self.approval.json(),
            "drafts": {"pushAfter": quantities.show_duration(self.push_after_s)},
            "render": self.render.value,
            "versioning": self.versioning.value,
        }


@slotted(frozen=True)
class Defaults:
    """What a repository gets where it does not say otherwise; from the settings of the same names."""

    namespace: str = "default"
    interval_s: float = 600
    validation: Validation = Validation.ISOLATE
    allow_empty: bool = False


def from_text(text: str, base: Path, defaults: Defaults) -> RepositoryConfig:
    """The repository that `NAME=SOURCE` names. Raises ValueError that says what is allowed."""
    name, equals, source = text.partition("=")
    if not equals or "/" in name:
        raise ValueError(f"{text!r} does not name the catalog: write NAME=SOURCE, as in example={text}")
    return RepositoryConfig(
        key=RepositoryKey(defaults.namespace, check_name(name)),
        source=sources.parse_source(source, base),
        interval_s=defaults.interval_s,
        validation=defaults.validation,
        allow_empty=defaults.allow_empty,
    )


def from_path(path: Path, defaults: Defaults) -> Iterator[RepositoryConfig]:
    """Every Repository (or CatalogSource) in a file, or in the *.yaml, *.yml and *.json files of a directory, by name.

    Raises: ConfigError, also for a document of another kind and when there is none at all.
    """
    from cacheserver.config.documents import read_documents  # noqa: PLC0415  `--catalog` alone does without YAML

    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml", ".json"))
    else:
        files = [path]
    found = False
    for file in files:
        for document in read_documents(file):
            found = True
            yield _from_manifest(document, defaults)
    if not found:
        raise ConfigError(f"{path}: holds no Repository manifest")


def from_cluster(manifest: Mapping[str, object], defaults: Defaults) -> RepositoryConfig:
    """The repository that a cluster's object asks for. Of its annotations ours are kept, of its labels none.

    What is read from this machine's disk is refused: it is the server's own, not that of who may write the object.
    Raises: ConfigError whose message begins with the field, as in `spec.source.oci.image: ...`.
    """
    from cacheserver.config.documents import from_object  # noqa: PLC0415  as in from_path

    written = manifest.get("metadata")
    metadata = written if isinstance(written, Mapping) else {}
    annotations = {name: text for name, text in _mapping(metadata, "annotations").items() if _is_ours(name)}
    identity = {name: metadata[name] for name in ("name", "namespace") if name in metadata}
    parts = {"metadata": {**identity, "annotations": annotations}, "spec": manifest.get("spec") or {}}
    document = from_object(parts, "the Repository")
    config = _config(document, defaults, Path("/"))
    spec = document.members()["spec"].members()
    source = config.source
    if isinstance(source, sources.DirectorySource | sources.OCILayoutSource):
        raise spec["source"].error("a directory of the server is read standalone only; use oci or git in a cluster")
    if isinstance(source, sources.GitSource) and source.url.startswith("file:"):
        raise spec["source"].error("a file:// URL is read standalone only; use https:// or ssh:// in a cluster")
    generation = metadata.get("generation")
    return replace(
        config,
        generation=generation if isinstance(generation, int) and generation > 0 else 1,
        uid=str(metadata.get("uid", "")),
        secret=_reference(spec, "secretRef"),
        ca_secret=_reference(spec, "caSecretRef"),
        leaving="deletionTimestamp" in metadata,
    )


def unique(repositories: Iterable[tuple[str, RepositoryConfig]]) -> tuple[RepositoryConfig, ...]:
    """The repositories, in order; each comes with its origin. Raises ConfigError when two share a name."""
    origins: dict[RepositoryKey, str] = {}
    kept: list[RepositoryConfig] = []
    for origin, repository in repositories:
        first = origins.setdefault(repository.key, origin)
        if len(origins) == len(kept):
            key = repository.key
            raise ConfigError(f"{origin}: the repository {key.name} in namespace {key.namespace} is in {first} too")
        kept.append(repository)
    return tuple(kept)


def check_name(name: str) -> str:
    """`name` if a repository may be called so. Raises ValueError."""
    if not names.REPOSITORY_NAME.match(name):
        raise ValueError(
            f"{name!r} is not a repository name: 1 to 63 lower-case letters, digits and hyphens, a letter or digit at "
            "both ends; no dots, since a dot ends the repository's part of a package's name"
        )
    return name


def check_namespace(text: str) -> str:
    """`text`, if it is a namespace: an RFC 1123 label, as a repository's name is. Raises: ValueError."""
    if not names.REPOSITORY_NAME.match(text):
        raise ValueError(f"{text!r} is not a namespace: 1 to 63 lower-case letters, digits and hyphens")
    return text


def _from_manifest(document: Value, defaults: Defaults) -> RepositoryConfig:
    """What a document of a file says. Raises: ConfigError, also for what only a cluster can give."""
    if (kind := document.members().get("kind")) is not None and kind.text() == "CatalogSource":
        return _from_catalog_source(document, defaults)
    document.require({"apiVersion": API_VERSION, "kind": "Repository"})
    config = _config(document, defaults, document.file.parent.absolute())
    spec = document.members()["spec"].members()
    for key in _NEEDS_CLUSTER:
        if key in spec:
            raise spec[key].error("secrets live in a cluster; repositories from files are read without them")
    return replace(config, labels=_texts(document.members()["metadata"].members(), "labels"))


def _from_catalog_source(document: Value, defaults: Defaults) -> RepositoryConfig:
    """A CatalogSource of rukpak-packageserver, as another way to write a Repository. Raises: ConfigError."""
    document.require({"apiVersion": CATALOG_SOURCE})
    top = document.members(("apiVersion", "kind", "metadata", "spec", "status"))
    if "metadata" not in top or "spec" not in top:
        raise document.error("a CatalogSource has metadata and spec")
    metadata = top["metadata"].members(("name", "namespace", "labels", "annotations", *_SERVER_METADATA))
    spec = top["spec"].members(("image", "pollingInterval"))
    return RepositoryConfig(
        key=RepositoryKey(
            _one(metadata, "namespace", check_namespace, defaults.namespace),
            _checked(_needed(top["metadata"], metadata, "name"), check_name),
        ),
        source=_checked(_needed(top["spec"], spec, "image"), lambda text: sources.oci_source(text, insecure=False)),
        format=Format.FBC,
        interval_s=_one(spec, "pollingInterval", lambda text: INTERVAL.parse(text, Path()), defaults.interval_s),
        validation=defaults.validation,
        publish=frozenset((Door.RUKPAK,)),
        allow_empty=defaults.allow_empty,
        labels=_texts(metadata, "labels"),
    )


def _config(document: Value, defaults: Defaults, base: Path) -> RepositoryConfig:
    """The rules for every Repository, wherever it is written; relative paths start from `base`."""
    top = document.members(("apiVersion", "kind", "metadata", "spec", "status"))
    if "metadata" not in top or "spec" not in top:
        raise document.error("a Repository has metadata and spec")
    metadata = top["metadata"].members(("name", "namespace", "labels", "annotations", *_SERVER_METADATA))
    spec = top["spec"].members((*_SPEC, *_NEEDS_CLUSTER))
    annotations = _texts(metadata, "annotations")
    allow_empty = defaults.allow_empty
    if ANNOTATION_ALLOW_EMPTY in annotations:
        allow_empty = annotations[ANNOTATION_ALLOW_EMPTY] == "true"
    source = _source(_needed(top["spec"], spec, "source"), base)
    chosen, deployment = _format(spec), _one(spec, "deployment", quantities.parse_switch, False)
    return RepositoryConfig(
        key=RepositoryKey(
            _one(metadata, "namespace", check_namespace, defaults.namespace),
            _checked(_needed(top["metadata"], metadata, "name"), check_name),
        ),
        source=source,
        format=chosen,
        deployment=deployment,
        writable=_writable(spec, source, chosen, deployment=deployment),
        push_after_s=_push_after(spec, base),
        approval=policy.approval(spec),
        render=policy.render(spec),
        versioning=policy.versioning(spec),
        interval_s=_one(spec, "interval", lambda text: INTERVAL.parse(text, base), defaults.interval_s),
        suspend=_one(spec, "suspend", quantities.parse_switch, False),
        validation=_one(spec, "validation", _one_of(Validation), defaults.validation),
        publish=doors.publish(spec, chosen),
        allow_empty=allow_empty,
        annotations=annotations,
    )


def _is_ours(annotation: str) -> bool:
    return annotation.startswith(f"{GROUP}/")


def _mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = parent.get(key)
    return found if isinstance(found, Mapping) else {}


def _reference(spec: Mapping[str, Value], key: str) -> str:
    """The name in `secretRef: {name: NAME}`; empty when the key is not there."""
    if key not in spec:
        return ""
    name = _needed(spec[key], spec[key].members(("name",)), "name")
    if not _SECRET_NAME.match(name.text()):
        raise name.error(f"{name.text()!r} is not a name of a Secret")
    return name.text()


def _source(value: Value, base: Path) -> SourceSpec:
    """`spec.source`: exactly one of directory, git, oci, ociLayout."""
    kinds = value.members(_SOURCES)
    if len(kinds) != 1:
        raise value.error(f"a source is exactly one of: {', '.join(_SOURCES)}")
    [(kind, inner)] = kinds.items()
    match kind:
        case "directory" | "ociLayout":
            path = _checked(_needed(inner, inner.members(("path",)), "path"), lambda t: quantities.parse_path(t, base))
            return sources.DirectorySource(path) if kind == "directory" else sources.OCILayoutSource(path)
        case "oci":
            image = inner.members(("image", "insecure"))
            insecure = _one(image, "insecure", quantities.parse_switch, False)
            return _checked(_needed(inner, image, "image"), lambda t: sources.oci_source(t, insecure=insecure))
        case _:
            return _git(inner, base)


def _git(value: Value, base: Path) -> SourceSpec:
    git = value.members(("url", "ref", "directory"))
    ref: GitRef | None = None
    if "ref" in git:
        kinds = git["ref"].members([kind.value for kind in RefKind])
        if len(kinds) != 1:
            raise git["ref"].error("a ref is exactly one of: branch, tag, commit, name")
        [(kind, name)] = kinds.items()
        ref = GitRef(RefKind(kind), name.text())
    directory = git["directory"].text() if "directory" in git else ""
    return _checked(_needed(value, git, "url"), lambda url: sources.git_source(_git_url(url, base), ref, directory))


def _git_url(text: str, base: Path) -> str:
    """A path, which begins with a slash or dot, as the URL of a repository on this machine; anything else as it is."""
    if not text.startswith(("/", "./", "../")):
        return text
    return quantities.parse_path(text, base).resolve().as_uri()


def _source_fields(source: SourceSpec) -> dict[str, object]:
    match source:
        case sources.DirectorySource(path):
            return {"directory": {"path": str(path)}}
        case sources.OCILayoutSource(path):
            return {"ociLayout": {"path": str(path)}}
        case sources.OCISource(image, insecure):
            return {"oci": {"image": image, "insecure": insecure}}
        case sources.GitSource(url, ref, directory):
            git: dict[str, object] = {"url": url}
            if ref is not None:
                git["ref"] = {ref.kind.value: ref.name}
            if directory:
                git["directory"] = directory
            return {"git": git}


def _format(spec: Mapping[str, Value]) -> Format | None:
    chosen = _one(spec, "format", _one_of(FormatChoice), FormatChoice.AUTO)
    return None if chosen is FormatChoice.AUTO else Format(chosen.value)


def _writable(spec: Mapping[str, Value], source: SourceSpec, chosen: Format | None, *, deployment: bool) -> bool:
    """`spec.access`; where it does not say: a deployment repository that can be written to is."""
    named = isinstance(source, sources.GitSource) and source.ref is not None and source.ref.kind is RefKind.BRANCH
    possible = named and chosen is Format.KRM
    if "access" not in spec:
        return deployment and possible
    if _checked(spec["access"], _one_of(Access)) is Access.READ_ONLY:
        return False
    if not possible:
        raise spec["access"].error(
            "ReadWrite is for KRM packages on a branch of a git repository: name source.git.ref.branch and format: KRM"
        )
    return True


def _push_after(spec: Mapping[str, Value], base: Path) -> float:
    if "drafts" not in spec:
        return _PUSH_AFTER_S
    return _one(
        spec["drafts"].members(("pushAfter",)), "pushAfter", lambda text: PUSH_AFTER.parse(text, base), _PUSH_AFTER_S
    )


def _one_of(enum: type[E]) -> Callable[[str], E]:
    kind = quantities.choice(enum)
    return lambda text: kind.parse(text, Path())


def _needed(parent: Value, members: Mapping[str, Value], key: str) -> Value:
    if key not in members:
        raise parent.error(f"has no {key}")
    return members[key]


def _checked(value: Value, parse: Callable[[str], T]) -> T:
    try:
        return parse(value.text())
    except ValueError as exc:
        raise value.error(str(exc)) from exc


def _one(members: Mapping[str, Value], key: str, parse: Callable[[str], T], default: T) -> T:
    return _checked(members[key], parse) if key in members else default


def _texts(members: Mapping[str, Value], key: str) -> dict[str, str]:
    if key not in members:
        return {}
    return {name: value.text() for name, value in members[key].members().items()}
