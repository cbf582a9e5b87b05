"""Content negotiation: Accept, Accept-Encoding, pretty. Never answers a type that the client did not name.

Rules: k8s.io/apiserver/pkg/endpoints/handlers/negotiation/negotiate.go; transforms: handlers/rest.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from cacheserver.api import forms
from cacheserver.api.attributes import Query
from cacheserver.api.forms import Form, Include, Shape
from cacheserver.api.status import bad_request, brief, not_acceptable, wrong_form
from cacheserver.memo import Memo
from cacheserver.slotted import slotted


class Encoding(Enum):
    """A media type that bodies are written in."""

    JSON = "application/json"
    YAML = "application/yaml"

    def __init__(self, media_type: str) -> None:
        self.media_type = media_type  # what `value` is, without its look-up: a property of Python's


class Answer(Enum):
    """What is negotiated about."""

    OBJECT = "one object"
    LIST = "a list"
    WATCH = "a stream"


@slotted(frozen=True)
class Accepted:
    """shape and api_version: the transform asked for (Shape.OBJECT: none). of_list: PartialObjectMetadataList.

    pretty: `;pretty=1` in the media type.
    """

    encoding: Encoding
    shape: Shape = Shape.OBJECT
    api_version: str = ""
    pretty: bool = False
    of_list: bool = False


@slotted(frozen=True)
class Clause:
    """One media range of an Accept header. parameters: lower-case names, without q."""

    type: str
    subtype: str
    parameters: Mapping[str, str]

    def covers(self, media_type: str) -> bool:
        """Whether the clause asks for this media type, `*` for any (RFC 9110, 12.5.1)."""
        type_, _, subtype = media_type.partition("/")
        return self.type in ("*", type_) and self.subtype in ("*", subtype)


_SHAPES: Final = {
    "Table": Shape.TABLE,
    "PartialObjectMetadata": Shape.METADATA,
    "PartialObjectMetadataList": Shape.METADATA,
}
_PRETTY_AGENTS: Final = ("curl", "Wget", "Mozilla/5.0")
_TRUE: Final = frozenset(("1", "t", "T", "TRUE", "true", "True"))  # Go: strconv.ParseBool
_PLAIN: Final = Accepted(Encoding.JSON)


ACCEPT_CHARACTERS: Final = 1024
"""Of an Accept header: browsers send 150, kubectl 200. It is read before anybody is known, at 2 us a clause."""
_ENCODINGS_CHARACTERS: Final = 1024  # of Accept-Encoding; a longer one gets no gzip, which nobody has to be given
_REMEMBERED_BYTES: Final = 1 << 20  # clients send the same few headers over and over

_parsed: Final = Memo[str, Sequence[Clause]](_REMEMBERED_BYTES)
_negotiated: Final = Memo[tuple[str, bool], tuple[Accepted | None]](_REMEMBERED_BYTES // 4)


def parse_accept(header: str) -> Sequence[Clause]:
    """Its clauses by falling q, those with q=0 left out; empty for a header without any.

    Raises: StatusError 400 for one that is longer than any client's.
    """
    known = _parsed.get(header)
    if known is None:
        if len(header) > ACCEPT_CHARACTERS:
            raise bad_request(f"the Accept header has {len(header)} characters, at most {ACCEPT_CHARACTERS} are read")
        known = _parse_accept(header)
        # Measured: a clause takes up to 400 bytes, a parameter's share is up to 30 times its text.
        _parsed.put(header, known, 400 * len(known) + 30 * len(header))
    return known


def _parse_accept(header: str) -> Sequence[Clause]:
    ranked: list[tuple[float, Clause]] = []
    for part in header.split(","):
        media_range, *rest = (piece.strip() for piece in part.split(";"))
        type_, slash, subtype = media_range.partition("/")
        if not type_ or (not slash and type_ != "*"):
            continue
        quality = 1.0
        parameters: dict[str, str] = {}
        for parameter in rest:
            name, _, value = parameter.partition("=")
            if name == "q":
                quality = _quality(value)
            else:
                parameters[name.lower()] = value.strip('"')
        if quality > 0:
            ranked.append((quality, Clause(type_.lower(), subtype.lower() or "*", parameters)))
    ranked.sort(key=lambda item: -item[0])  # stable: equals stay in the order sent
    return tuple(clause for _, clause in ranked)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


def negotiate(header: str, answer: Answer) -> Accepted:
    """Raises: StatusError 406 when nothing that the client accepts can be had; 400 for a header that is too long."""
    if header in ("", "*/*", "application/json"):
        return _PLAIN
    accepted = _negotiate(header, answer is Answer.WATCH)
    if accepted is None:
        offered = (f"{Encoding.JSON.value};stream=watch",) if answer is Answer.WATCH else [e.value for e in Encoding]
        raise not_acceptable(offered)
    if accepted.shape is Shape.METADATA:  # the list form of one object, or the reverse: k8s handlers/response.go
        if answer is Answer.LIST and not accepted.of_list:
            raise wrong_form("PartialObjectMetadata", is_list=True)
        if answer is Answer.OBJECT and accepted.of_list:
            raise wrong_form("PartialObjectMetadataList", is_list=False)
    return accepted


def _negotiate(header: str, stream: bool) -> Accepted | None:
    known = _negotiated.get((header, stream))
    if known is None:
        known = (_choose(header, stream=stream),)
        _negotiated.put((header, stream), known, 400 + 4 * len(header))
    return known[0]


def _choose(header: str, *, stream: bool) -> Accepted | None:
    for clause in parse_accept(header):
        for encoding in (Encoding.JSON,) if stream else Encoding:
            found = _accepts(clause, encoding, stream=stream)
            if found is not None:
                return found
    return None


def _accepts(clause: Clause, encoding: Encoding, *, stream: bool) -> Accepted | None:
    if not clause.covers(encoding.value):
        return None
    parameters = clause.parameters
    if parameters.get("stream", "watch" if stream else "") not in ("", "watch"):
        return None
    if parameters.get("stream") and encoding is Encoding.YAML:
        return None  # there is no YAML stream
    pretty = parameters.get("pretty") == "1"
    wanted = parameters.get("as", "")
    if not wanted:
        return Accepted(encoding, pretty=pretty)
    version = parameters.get("v", "")
    if wanted not in _SHAPES or parameters.get("g") != "meta.k8s.io" or version not in forms.METADATA:
        return None
    return Accepted(encoding, _SHAPES[wanted], version, pretty, wanted.endswith("List"))


def form_of(accepted: Accepted, query: Query) -> Form:
    """Raises: StatusError 400 for an unknown includeObject."""
    if accepted.shape is Shape.OBJECT:
        return forms.OBJECT
    if accepted.shape is Shape.METADATA:
        return forms.METADATA[accepted.api_version]
    text = query.get("includeObject", "")
    try:
        include = Include(text) if text else Include.METADATA
    except ValueError:
        allowed = '"Metadata", "None", "Object"'
        raise bad_request(
            f'Unable to convert to Table as requested: includeObject: Unsupported value: "{brief(text)}": '
            f"supported values: {allowed}"
        ) from None
    return forms.TABLE[accepted.api_version, include]


def wants_pretty(query: Query, user_agent: str, *, accepted: bool = False) -> bool:
    """`?pretty=` wins, then the media type's parameter, then who asks: people use curl, Wget and browsers."""
    if text := query.get("pretty"):
        return text in _TRUE
    return accepted or user_agent.startswith(_PRETTY_AGENTS)


def accepts_gzip(accept_encoding: str) -> bool:
    """As kube: only a bare `gzip` counts, a q-value is not looked at (handlers/responsewriters/writers.go)."""
    if "gzip" not in accept_encoding or len(accept_encoding) > _ENCODINGS_CHARACTERS:
        return False
    return any(token.strip() == "gzip" for token in accept_encoding.split(","))


def choose(header: str, offered: Sequence[str]) -> str | None:
    """The first of `offered` that the best clause covers; without a header the first; None when nothing fits."""
    if not header.strip():
        return offered[0]
    for clause in parse_accept(header):
        for media_type in offered:
            if clause.covers(media_type):
                return media_type
    return None
