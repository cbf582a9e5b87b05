"""PackageSearch: a question that is created to be answered, as a SubjectAccessReview is; nothing is kept."""

from __future__ import annotations

from typing import Final

from cacheserver.api.kinds.resource import (
    Column,
    Resource,
    flag,
    name_column,
    number,
    record,
    records,
    text,
    texts,
)
from cacheserver.model import GROUP, Kind

PACKAGE_SEARCH: Final = Resource(
    kind="PackageSearch",
    plural="packagesearches",
    short_names=(),
    group=GROUP,
    description="A search for packages: created with a spec, answered with a status, and not kept. Who creates one has "
    "to have the right to list packages besides.",
    instead="nothing of it is kept: create another one",
    verbs=("create",),
    source=Kind.PACKAGE,
    selectable=(),
    columns=(name_column(), Column("Age", "None: it is not kept.", None)),
    categories=(),
    virtual=True,
    spec=record(
        "spec",
        "What is asked. All of it has to hold; of a list, one.",
        text("text", "Words, as packages?search= takes them; empty for all packages."),
        texts("provides", "Kinds, as status.provides has them: packages that provide each of them."),
        texts("namespaces", "Names of namespaces, where the search is of all."),
        texts("repositories", "Names of repositories."),
        texts("providers", "Names of providers, as they are written."),
        texts("categories", "Categories, as they are written."),
        text("format", "What the source's bytes mean.", enum=("FBC", "KRM")),
        text("versionRange", "Of the latest version, as skipRange is written: `>=1.2.0 <2.0.0`."),
        flag("deprecated", "Only those that are deprecated, or only those that are not."),
        text("sort", "By score unless told otherwise.", enum=("score", "name")),
        number("limit", "Most results, 100 at most; 20 by default."),
        text("continue", "status.continue of the answer before: what comes behind it now."),
    ),
    status=record(
        "status",
        "The answer, as of now.",
        number("total", "How many packages there are."),
        records(
            "results",
            "The best first.",
            text("namespace", "Namespace of the Package."),
            text("name", "Name of the Package."),
            text("repository", "Its repository."),
            text("package", "Name of the package in it."),
            text("format", "What the source's bytes mean."),
            text("displayName", "Name for people."),
            text("summary", "First sentences of its description."),
            text("latest", "Latest version."),
            flag("deprecated", "True when its author advises against it."),
            texts("matched", "Fields that have the words, the weightiest first."),
            number("score", "How well it matches, in hundredths; it compares within one answer."),
        ),
        records(
            "facets",
            "How many of all of them have which value, 50 values at most of each; as if of the facet itself none were "
            "asked for, so that others of its values can be chosen.",
            text("name", "namespace, repository, format, provider, category or deprecated."),
            records("values", "The most first.", text("value", "The value."), number("count", "How many have it.")),
        ),
        text("continue", "Set when there are more, up to 1,000."),
    ),
)
