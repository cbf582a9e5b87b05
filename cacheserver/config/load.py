"""Where settings come from: flag, else environment, else file, else default. Every error names that place.

Called once, at start, by the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from cacheserver.config import doors, repositories, sources
from cacheserver.config.declare import ENV_PREFIX, Setting
from cacheserver.config.repositories import API_VERSION, Defaults, RepositoryConfig
from cacheserver.config.settings import (
    FILE_KIND,
    SETTINGS,
    SUBJECTS,
    Kubernetes,
    ServingSettings,
    Settings,
)
from cacheserver.errors import ConfigError
from cacheserver.slotted import slotted

CONFIG_FLAG: Final = "--config"
CONFIG_ENV: Final = f"{ENV_PREFIX}CONFIG"

Flags = Mapping[str, str | bool | Sequence[str]]
"""Flag (`--interval`) -> what was written; only flags that were given."""


@slotted(frozen=True)
class _Written:
    """One setting's text as written, where, and the directory that relative paths in it start from."""

    origin: str
    text: str
    base: Path


def load(flags: Flags, environ: Mapping[str, str], *, cwd: Path) -> Settings:
    """The settings as flags, environment and file give them. Relative paths in a file start from the file's directory.

    An empty variable counts as unset. A list is taken whole from the first place that has it, never joined.
    Raises: ConfigError, with the place of the mistake and what is allowed there.
    """
    config = flags.get(CONFIG_FLAG) or environ.get(CONFIG_ENV)
    from_file = _read_file(cwd / Path(str(config)).expanduser()) if config else {}
    written: dict[Setting, list[_Written]] = {}
    for setting in SETTINGS:
        if setting.flag in flags:
            written[setting] = [_Written(setting.flag, text, cwd) for text in _flag_texts(flags[setting.flag])]
        elif environ.get(setting.env):
            written[setting] = [_Written(setting.env, text, cwd) for text in _env_texts(setting, environ[setting.env])]
        elif setting in from_file:
            written[setting] = from_file[setting]
    subjects = {name: subject(**_values(subject, written)) for name, subject in SUBJECTS.items()}
    settings = Settings(repositories=(), **subjects)
    catalogs, publish = (_texts_of(field, written) for field in ("catalogs", "publish"))
    named = _repositories(settings, catalogs)
    named = _published(named, settings.content.publish, catalogs, publish)
    settings = Settings(repositories=_with_registries(settings, named, len(catalogs)), **subjects)
    check_etcd(settings)
    if settings.content.watch_namespaces and not settings.from_cluster:
        raise ConfigError(
            "--watch-namespaces says whose Repository objects of a cluster are served: it needs --kubernetes,"
            " and neither --catalog nor --repositories beside it"
        )
    if settings.serving.catalog_sources and not settings.from_cluster:
        raise ConfigError(
            "--catalog-sources makes Repositories of a cluster's CatalogSources: it needs --kubernetes, and neither"
            " --catalog nor --repositories beside it; without a cluster, --repositories reads CatalogSources"
        )
    _check_cluster_catalogs(settings)
    return settings


def _check_cluster_catalogs(settings: Settings) -> None:
    """Raises: ConfigError."""
    namespace, watched = settings.serving.cluster_catalogs, settings.content.watch_namespaces
    if namespace is None:
        return
    if not settings.from_cluster:
        raise ConfigError(
            "--cluster-catalogs makes Repositories of a cluster's ClusterCatalogs: it needs --kubernetes, and neither"
            " --catalog nor --repositories beside it"
        )
    if settings.serving.catalogs_url is None:
        raise ConfigError("--cluster-catalogs needs --catalogs-url: ClusterCatalogs say where clients read catalogs")
    if watched and namespace not in watched:
        raise ConfigError(f"--cluster-catalogs {namespace}: --watch-namespaces has to name it too")


def unknown_environment(environ: Mapping[str, str]) -> list[str]:
    """Names that look like settings of ours and are none, sorted.

    Not an error: Kubernetes puts CACHESERVER_SERVICE_HOST, CACHESERVER_PORT_... into Pods beside a Service of our name.
    """
    known = {setting.env for setting in SETTINGS} | {CONFIG_ENV}
    ignored = tuple(ENV_PREFIX + part for part in ("SERVICE_", "PORT", "TEST_"))
    return sorted(n for n in environ if n.startswith(ENV_PREFIX) and n not in known and not n.startswith(ignored))


def check_etcd(settings: Settings) -> None:
    """Raises ConfigError for etcd settings that contradict each other."""
    etcd = settings.etcd
    if (etcd.cert_file is None) != (etcd.key_file is None):
        raise ConfigError("--etcd-cert-file and --etcd-key-file come together: one of them is missing")
    if (etcd.user is None) != (etcd.password_file is None):
        raise ConfigError("--etcd-user and --etcd-password-file come together: one of them is missing")
    tls = etcd.ca_file or etcd.cert_file
    if etcd.embedded and (tls or etcd.user):
        raise ConfigError(
            "the embedded etcd is reached without TLS or password; name yours with --etcd https://HOST:PORT"
        )
    if tls and not etcd.endpoints[0].startswith("https://"):
        raise ConfigError("--etcd-ca-file and --etcd-cert-file need https:// in --etcd")
    for file in (etcd.ca_file, etcd.cert_file, etcd.key_file):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file}: there is no such file (etcd TLS settings)")
    etcd.password()


def check_listen(settings: Settings) -> None:
    """Raises ConfigError for an address that others could reach while nothing keeps them from reading everything, and
    for settings of certificates and access that are of no use without each other, or contradict each other."""
    serving = settings.serving
    if (serving.tls_cert_file is None) != (serving.tls_key_file is None):
        raise ConfigError("--tls-cert-file and --tls-key-file come together: one of them is missing")
    _check_access(serving)
    missing = ["--tls-cert-file and --tls-key-file"] if serving.tls_cert_file is None else []
    if serving.kubernetes is Kubernetes.OFF and not serving.access_files:
        missing.append("--kubernetes, --token-auth-file or --client-ca-file")
    if missing and not serving.listen.loopback:
        raise ConfigError(
            f"--listen {serving.listen}: an address that other machines can reach needs TLS and authentication: give"
            f" {' and '.join(missing)}; or listen on 127.0.0.1 or [::1], and put a proxy that authenticates in front"
        )


def check_typed_catalogs(catalogs: Sequence[str], cwd: Path) -> None:
    """catalogs: the texts of --catalog, which `load` has read. Raises: ConfigError for a path that is not there.

    Of flags alone: who types one is there to correct it. A server that a file or a variable configures starts without
    its disk, serves what it had, and reads again when the disk is back.
    """
    for text in catalogs:
        source = sources.parse_source(text.partition("=")[2], cwd)
        match source:
            case sources.DirectorySource(path) if path.exists() and not path.is_dir():
                raise ConfigError(f"--catalog {text}: {path}: is a file; name the directory that holds it")
            case sources.DirectorySource(path):
                pass
            case sources.OCILayoutSource(path):  # an archive too, or PATH:NAME (sources/oci/layout.py)
                above = str(path).rpartition(":")[0]
                path = path if path.exists() or not above else Path(above)
            case sources.GitSource(url) if url.startswith("file:"):
                path = Path(unquote(urlsplit(url).path))
            case _:
                continue
        if not path.exists():
            raise ConfigError(f"--catalog {text}: {path}: there is no such file or directory")


def _check_access(serving: ServingSettings) -> None:
    """Raises: ConfigError."""
    files = " and ".join(serving.access_files)
    if files and serving.kubernetes is not Kubernetes.OFF:
        raise ConfigError(f"--kubernetes says who a client is and what it may do: leave out {files}")
    if files and not serving.access_groups:
        raise ConfigError(
            f"{files} says who a client is, and --readers which groups may read: name them, or system:authenticated for"
            " everybody who is known (--authors and --approvers say who may write)"
        )
    if serving.access_groups and not files:
        raise ConfigError(
            f"{serving.access_groups[0]} names groups: --token-auth-file or --client-ca-file has to say who is in them"
        )
    if serving.client_ca_file is not None and serving.tls_cert_file is None:
        raise ConfigError(
            "--client-ca-file needs TLS: clients show a certificate to --tls-cert-file and --tls-key-file"
        )


def _read_file(path: Path) -> dict[Setting, list[_Written]]:
    from cacheserver.config.documents import read_documents  # noqa: PLC0415  a command without a file does without YAML

    documents = list(read_documents(path))
    if len(documents) != 1:
        raise ConfigError(f"{path}: holds {len(documents)} documents; one {FILE_KIND} is needed")
    by_key = {setting.key: setting for setting in SETTINGS}
    documents[0].require({"apiVersion": API_VERSION, "kind": FILE_KIND})
    members = documents[0].members(("apiVersion", "kind", *by_key))
    base = path.parent.absolute()
    return {
        setting: [
            _Written(value.origin, value.text(), base)
            for value in (members[key].items() if setting.many else [members[key]])
        ]
        for key, setting in by_key.items()
        if key in members
    }


def _flag_texts(given: str | bool | Sequence[str]) -> list[str]:
    if isinstance(given, bool):
        return ["true" if given else "false"]
    return [given] if isinstance(given, str) else list(given)


def _env_texts(setting: Setting, text: str) -> list[str]:
    return [part for raw in text.split(",") if (part := raw.strip())] if setting.many else [text]


def _values(subject: type[Any], written: Mapping[Setting, list[_Written]]) -> dict[str, object]:
    """Field -> value, for the fields of `subject` that somebody wrote."""
    values: dict[str, object] = {}
    for setting, texts in written.items():
        if setting.subject is subject:
            parsed = [_parse(setting, text) for text in texts]
            values[setting.field] = tuple(parsed) if setting.many else parsed[-1]
    return values


def _parse(setting: Setting, written: _Written) -> object:
    try:
        return setting.kind.parse(written.text, written.base)
    except ValueError as exc:
        raise ConfigError(f"{written.origin}: {exc}") from exc


def _repositories(settings: Settings, catalogs: Sequence[_Written]) -> tuple[RepositoryConfig, ...]:
    content = settings.content
    defaults = Defaults(content.namespace, content.interval_s, content.validation, content.allow_empty)

    def every() -> Iterator[tuple[str, RepositoryConfig]]:
        for catalog in catalogs:
            try:
                yield f"{catalog.origin} {catalog.text}", repositories.from_text(catalog.text, catalog.base, defaults)
            except ValueError as exc:
                raise ConfigError(f"{catalog.origin}: {exc}") from exc
        for path in content.manifests:
            for repository in repositories.from_path(path, defaults):
                yield str(path), repository

    return repositories.unique(every())


def _texts_of(field: str, written: Mapping[Setting, list[_Written]]) -> list[_Written]:
    return next((texts for setting, texts in written.items() if setting.field == field), [])


def _published(
    named: tuple[RepositoryConfig, ...],
    publish: Sequence[str],
    catalogs: Sequence[_Written],
    written: Sequence[_Written],
) -> tuple[RepositoryConfig, ...]:
    """The repositories with the doors that --publish gives to those of --catalog. Raises: ConfigError."""
    if not publish:
        return named
    try:
        given = doors.of_catalogs(publish)
    except ValueError as exc:
        raise ConfigError(f"{written[0].origin}: {exc}") from exc
    mine = {catalog.text.partition("=")[0] for catalog in catalogs}
    for name in given:
        if name not in mine:
            raise ConfigError(
                f"{written[0].origin}: --catalog names no {name!r}; a manifest, or a Repository of a cluster, says so"
                " in spec.publish"
            )
    # Those of --catalog come first, one each.
    head = (replace(each, publish=given.get(each.key.name, frozenset())) for each in named[: len(catalogs)])
    return (*head, *named[len(catalogs) :])


def _with_registries(
    settings: Settings, named: tuple[RepositoryConfig, ...], catalogs: int
) -> tuple[RepositoryConfig, ...]:
    """The repositories, of which those of --catalog that --registry names are published so. catalogs: they come first.

    Raises: ConfigError where a listener is nobody's, or two want one port.
    """
    try:
        wanted = settings.registries()
    except ValueError as exc:
        raise ConfigError(f"--registry: {exc}") from exc
    if not wanted or (settings.serving.kubernetes is not Kubernetes.OFF and not named):
        return named  # a cluster's Repositories are not known yet
    head = tuple(
        replace(each, publish=each.publish | {doors.Door.REGISTRY}) if each.key in wanted else each
        for each in named[:catalogs]
    )
    published = {each.key for each in (*head, *named[catalogs:]) if doors.Door.REGISTRY in each.publish}
    for key in wanted:
        if key not in published:
            raise ConfigError(
                f"--registry: {key.namespace}/{key.name} is no catalog of --catalog, and no manifest of that name says"
                " publish: [Registry] in its spec"
            )
    return (*head, *named[catalogs:])
