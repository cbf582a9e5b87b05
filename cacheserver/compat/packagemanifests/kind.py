"""The kind PackageManifest: names, columns and fields, as operator-lifecycle-manager declares them.

Source: pkg/package-server/apis/operators/v1/packagemanifest_types.go. Watch is ours; the original has none.
"""

from __future__ import annotations

from typing import Final

from cacheserver.api.kinds.fields import READ
from cacheserver.api.kinds.resource import (
    Column,
    Field,
    Gathered,
    Resource,
    Subresource,
    flag,
    look,
    name_column,
    record,
    records,
    text,
    text_map,
    texts,
)
from cacheserver.model import Kind

GROUP: Final = "packages.operators.coreos.com"
VERSION: Final = "v1"
PLURAL: Final = "packagemanifests"

_LINK: Final = (text("name", "Its name."), text("url", "Its address."))
_DEPRECATION: Final = record(
    "deprecation", "Set when its author advises against it.", text("message", "What the author says to users.")
)
_CRD: Final = (
    text("name", "Name of the definition."),
    text("version", "Version of the API."),
    text("kind", "Kind of the API."),
    text("displayName", "Name for people."),
    text("description", "What it is."),
)
_SERVICE: Final = (_CRD[0], text("group", "Group of the API."), *_CRD[1:])


def _definitions(name: str, description: str, fields: tuple[Field, ...]) -> Field:
    return record(
        name,
        description,
        records("owned", "Those that it brings.", *fields),
        records("required", "Those that it needs.", *fields),
    )


_DESCRIPTION: Final = record(
    "currentCSVDesc",
    "What the CSV of the channel's head says, without its icon.",
    text("displayName", "Name for people."),
    text("version", "Its version; 0.0.0 where it says none."),
    record("provider", "Who provides it.", *_LINK),
    text_map("annotations", "Annotations of the CSV."),
    texts("keywords", "Words to find it by."),
    records("links", "Where to read on.", *_LINK),
    records("maintainers", "Who maintains it.", text("name", "Name."), text("email", "Address.")),
    text("maturity", "How mature it is."),
    text("description", "What it is, in Markdown."),
    records(
        "installModes",
        "What it can be installed for.",
        text("type", "Name of the mode."),
        flag("supported", "Whether it can."),
    ),
    _definitions("customresourcedefinitions", "Custom resources.", _CRD),
    _definitions("apiservicedefinitions", "Aggregated APIs.", _SERVICE),
    records("nativeApis", "APIs of Kubernetes that it needs.", _SERVICE[1], _CRD[1], _CRD[2]),
    text("minKubeVersion", "Lowest version of Kubernetes that it runs on."),
    texts("relatedImages", "Images that it runs or refers to, sorted."),
)

COLUMNS: Final = (
    name_column(),
    Column("Catalog", "Name of the catalog for people.", lambda m: look(m, "status", "catalogSourceDisplayName")),
    Column("Age", "Time since the package was first seen.", None),
)


def resource(gathered: Gathered) -> Resource:
    """The row. gathered: what makes its objects."""
    return Resource(
        kind="PackageManifest",
        plural=PLURAL,
        short_names=(),
        group=GROUP,
        version=VERSION,
        description="A package of a catalog, as clients of OLM know it: its channels, and the CSV that each leads to.",
        verbs=READ,
        source=Kind.PACKAGE,
        view=gathered.shown(""),
        gathered=gathered,
        selectable=(),
        columns=COLUMNS,
        spec=record("spec", "Always empty."),
        status=record(
            "status",
            "What the catalog says of the package.",
            text("catalogSource", "Name of the catalog: of a Repository.", required=True),
            text("catalogSourceDisplayName", "Its name for people.", required=True),
            text("catalogSourcePublisher", "Who publishes it.", required=True),
            text("catalogSourceNamespace", "Namespace of the catalog.", required=True),
            record("provider", "Who provides what the default channel leads to.", *_LINK),
            text("packageName", "Name of the package.", required=True),
            _DEPRECATION,
            records(
                "channels",
                "Channels by name, those apart whose head has no CSV that can be read.",
                text("name", "Name of the channel.", required=True),
                text("currentCSV", "Name of the CSV that it leads to.", required=True),
                _DESCRIPTION,
                _DEPRECATION,
                records(
                    "entries",
                    "Its bundles, the highest version first.",
                    text("name", "Name of the bundle.", required=True),
                    text("version", "Its version."),
                    _DEPRECATION,
                ),
            ),
            text("defaultChannel", "Channel that is followed when none is named.", required=True),
        ),
        subresources=(
            Subresource("icon", "The package's icon, or a default one.", ("image/png", "image/jpeg", "image/svg+xml")),
        ),
        categories=(),
    )
