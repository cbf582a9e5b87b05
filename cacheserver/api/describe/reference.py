"""The API's reference for people, in Markdown, from the declarations that serve: `python -m
cacheserver.api.describe.reference`.

Called by whoever writes the documentation; never while serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cacheserver.api.kinds.resource import Field, Resource, Type
from cacheserver.api.kinds.table import RESOURCES


def reference(resources: Iterable[Resource] = RESOURCES) -> str:
    """One section a kind: what it is, how it is read, its columns, selectable fields and every field."""
    return "\n".join(line for row in resources for line in _section(row))


def _section(row: Resource) -> Iterator[str]:
    yield f"## {row.kind}\n"
    yield f"{row.description}\n"
    short = "".join(f", short `{name}`" for name in row.short_names)
    verbs = ", ".join(row.verbs)
    yield f"`{row.plural}` in `{row.api_version}`{short}, namespaced; verbs {verbs}.\n"
    for sub in row.subresources:
        types = ", ".join(f"`{media_type}`" for media_type in sub.media_types)
        yield f"Subresource `{row.plural}/{sub.name}`: {sub.description} ({types})\n"
        if sub.parameters:
            yield "".join(f"- `?{name}=`: {said}\n" for name, said in sub.parameters)
    if not row.virtual:
        yield from _selected_and_shown(row)
    yield "| field | type | meaning |\n|---|---|---|"
    for part in filter(None, (row.spec, row.status)):
        yield from _fields(part, "")
    yield ""


def _selected_and_shown(row: Resource) -> Iterator[str]:
    yield "Field selectors: " + ", ".join(f"`{path}`" for path in row.all_selectable) + ".\n"
    yield "| column | shown | meaning |\n|---|---|---|"
    for column in row.columns:
        yield f"| {column.name.upper()} | {'`-o wide`' if column.wide else 'always'} | {_cell(column.description)} |"
    yield ""


def _fields(field: Field, above: str) -> Iterator[str]:
    path = f"{above}{field.name}" + ("[]" if field.type is Type.OBJECTS else "")
    meaning = field.description + (f" One of {', '.join(field.enum)}." if field.enum else "")
    yield f"| `{path}` | {field.type.value} | {_cell(meaning)} |"
    for inner in field.fields:
        yield from _fields(inner, f"{path}.")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
