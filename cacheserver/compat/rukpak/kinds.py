"""What rukpak-packageserver's kinds are called, and their fields, as it declares them.

Source: github.com/anik120/rukpak-packageserver, config/crd/bases. Short names and columns it has none.
"""

from __future__ import annotations

from typing import Final

from cacheserver.api.kinds.fields import READ
from cacheserver.api.kinds.resource import (
    Column,
    Field,
    Gathered,
    Resource,
    name_column,
    record,
    records,
    text,
    time,
)
from cacheserver.config.repositories import CATALOG_SOURCE
from cacheserver.model import Kind

GROUP, VERSION = CATALOG_SOURCE.split("/")
VERSION_IN_A_CLUSTER: Final = "v1alpha1"
"""Ours: kube-apiserver has either all of a group's version from one APIService or all of it from definitions, and
CatalogSources, which it keeps, are of the version above. Clients ask for a kind and a group, and find it in either."""

_COLUMNS: Final = (name_column(), Column("Age", "Time since it was first seen.", None))
_API: Final = (text("group", "API group."), text("version", "API version."), text("kind", "Kind."))
_EMPTY: Final = record("status", "Always empty.")


def source(gathered: Gathered) -> Resource:
    """CatalogSource. gathered: what makes its objects, as below."""
    return _resource(
        VERSION,
        "CatalogSource",
        "A catalog's image, and how often it is looked at: a Repository.",
        Kind.REPOSITORY,
        gathered,
        record(
            "spec",
            "What is read.",
            text("image", "The image; of a Repository with another source, that.", required=True),
            text("pollingInterval", "How often it is looked at."),
        ),
        record("status", "How it went.", time("latestImagePoll", "When it was last looked at.")),
    )


def cache(version: str, gathered: Gathered) -> Resource:
    """CatalogCache."""
    return _resource(
        version,
        "CatalogCache",
        "All bundles of a catalog: the package revisions of a Repository.",
        Kind.REPOSITORY,
        gathered,
        record(
            "spec",
            "The bundles, in a get only.",
            records(
                "operators",
                "One a bundle.",
                text("name", "Name of the bundle.", required=True),
                text("package", "Package that it is of.", required=True),
                text("version", "Its version.", required=True),
                records("providedapis", "APIs that it brings.", *_API),
                records("requiredapis", "APIs that must be there.", *_API),
                text("bundlepath", "Its image.", required=True),
            ),
        ),
        _EMPTY,
    )


def package(version: str, gathered: Gathered) -> Resource:
    """Package."""
    link = (text("name", "Its name."), text("url", "Its address."))
    return _resource(
        version,
        "Package",
        "A package of a catalog, and its channels.",
        Kind.PACKAGE,
        gathered,
        record(
            "spec",
            "What the catalog says of it.",
            text("catalogSource", "Name of the CatalogSource.", required=True),
            text("catalogSourceNamespace", "Its namespace.", required=True),
            record("provider", "Who provides it.", *link),
            text("packageName", "Name of the package.", required=True),
            records(
                "channels",
                "Its channels.",
                text("name", "Name of the channel.", required=True),
                text("head", "Revision that it leads to.", required=True),
            ),
            record(
                "icon",
                "Its icon, in a get only.",
                text("base64data", "The image in base64."),
                text("mediatype", "Its media type."),
            ),
            text("defaultChannel", "Channel that is followed when none is named.", required=True),
        ),
        _EMPTY,
    )


def _resource(
    version: str, kind: str, description: str, stored: Kind, gathered: Gathered, spec: Field, status: Field
) -> Resource:
    return Resource(
        kind=kind,
        plural=f"{kind.lower()}s",
        short_names=(),
        group=GROUP,
        version=version,
        description=description,
        verbs=READ,
        source=stored,
        view=gathered.shown(""),
        gathered=gathered,
        selectable=(),
        columns=_COLUMNS,
        spec=spec,
        status=status,
        instead="it is a view: write a Repository with publish: [Rukpak], or on a server of your own a CatalogSource "
        "into a file that --repositories names",
        categories=(),
    )
