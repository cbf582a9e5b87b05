"""Settings: what there is to set, where it comes from, and the repositories that an operator names.

Read once at start by the command line; everybody else is handed the dataclasses.
"""

from __future__ import annotations

from cacheserver.config.load import CONFIG_ENV, CONFIG_FLAG, Flags, check_listen, load, unknown_environment
from cacheserver.config.quantities import Address, show_duration, show_size
from cacheserver.config.repositories import FormatChoice, RepositoryConfig, Validation
from cacheserver.config.settings import (
    SETTINGS,
    SUBJECTS,
    CacheSettings,
    ContentSettings,
    EtcdSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    ParseSettings,
    ServingSettings,
    Setting,
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
    "DirectorySource",
    "EtcdSettings",
    "Flags",
    "FormatChoice",
    "GitRef",
    "GitSource",
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
    "load",
    "parse_source",
    "show_duration",
    "show_size",
    "unknown_environment",
]
