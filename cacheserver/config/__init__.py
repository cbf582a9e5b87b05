"""Settings: what there is to set, where it comes from, and the repositories that an operator names.

Read once at start by the command line; everybody else is handed the dataclasses.
"""

from __future__ import annotations

from cacheserver.config.declare import Setting
from cacheserver.config.doors import Door
from cacheserver.config.load import (
    CONFIG_ENV,
    CONFIG_FLAG,
    Flags,
    check_listen,
    check_typed_catalogs,
    load,
    unknown_environment,
)
from cacheserver.config.quantities import Address, show_duration, show_size
from cacheserver.config.repositories import Defaults, FormatChoice, RepositoryConfig, Validation, from_cluster
from cacheserver.config.settings import (
    SETTINGS,
    SUBJECTS,
    CacheSettings,
    ContentSettings,
    EtcdSettings,
    Kubernetes,
    LogFormat,
    LogLevel,
    LogSettings,
    ParseSettings,
    ServingSettings,
    Settings,
)
from cacheserver.config.sources import (
    DirectorySource,
    GitRef,
    GitSource,
    OCILayoutSource,
    OCISource,
    RefKind,
    SourceSpec,
    parse_source,
)

__all__ = [
    "CONFIG_ENV",
    "CONFIG_FLAG",
    "SETTINGS",
    "SUBJECTS",
    "Address",
    "CacheSettings",
    "ContentSettings",
    "Defaults",
    "DirectorySource",
    "Door",
    "EtcdSettings",
    "Flags",
    "FormatChoice",
    "GitRef",
    "GitSource",
    "Kubernetes",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "OCILayoutSource",
    "OCISource",
    "ParseSettings",
    "RefKind",
    "RepositoryConfig",
    "ServingSettings",
    "Setting",
    "Settings",
    "SourceSpec",
    "Validation",
    "check_listen",
    "check_typed_catalogs",
    "from_cluster",
    "load",
    "parse_source",
    "show_duration",
    "show_size",
    "unknown_environment",
]
