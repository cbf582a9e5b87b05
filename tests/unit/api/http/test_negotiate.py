"""Which encoding and form an Accept header leads to."""

from __future__ import annotations

import pytest

from cacheserver.api.forms import Shape
from cacheserver.api.http.negotiate import Answer, Encoding, accepts_gzip, choose, negotiate
from cacheserver.api.status import StatusError

META = "g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "encoding", "shape"),
    [
        ("", Encoding.JSON, Shape.OBJECT),
        ("*/*", Encoding.JSON, Shape.OBJECT),
        ("application/*", Encoding.JSON, Shape.OBJECT),
        ("application/json;charset=utf-8", Encoding.JSON, Shape.OBJECT),
        ("application/json;stream=watch", Encoding.JSON, Shape.OBJECT),
        ("text/html,*/*;q=0.8", Encoding.JSON, Shape.OBJECT),
        ("application/vnd.kubernetes.protobuf,application/json", Encoding.JSON, Shape.OBJECT),
        ("application/json;q=0.1,application/yaml;q=0.9", Encoding.YAML, Shape.OBJECT),
        ("application/yaml;q=0,application/json", Encoding.JSON, Shape.OBJECT),
        (f"application/json;as=Table;v=v1;{META},application/json", Encoding.JSON, Shape.TABLE),
        (f"application/json;{META};v=v1;as=Table", Encoding.JSON, Shape.TABLE),
        (f"application/yaml;as=Table;v=v1;{META}", Encoding.YAML, Shape.TABLE),
        (f"application/json;as=Foo;v=v1;{META},application/json", Encoding.JSON, Shape.OBJECT),
        (f"application/json;as=PartialObjectMetadataList;v=v1;{META}", Encoding.JSON, Shape.METADATA),
    ],
)
def test_the_best_that_can_be_had_is_chosen(accept: str, encoding: Encoding, shape: Shape) -> None:
    accepted = negotiate(accept, Answer.LIST)
    assert (accepted.encoding, accepted.shape) == (encoding, shape)


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/vnd.kubernetes.protobuf",
        f"application/vnd.kubernetes.protobuf;as=Table;v=v1;{META}",
        f"application/json;as=Table;v=v2;{META}",
        "application/json;as=Table;v=v1;g=other",
        "application/json;as=Foo",
        "application/json;stream=other",
        f"application/json;as=PartialObjectMetadata;v=v1;{META}",
    ],
)
def test_nothing_is_sent_that_was_not_asked_for(accept: str) -> None:
    with pytest.raises(StatusError) as refused:
        negotiate(accept, Answer.LIST)
    assert (refused.value.code, refused.value.reason) == (406, "NotAcceptable")


@pytest.mark.parametrize(
    ("header", "accepted"),
    [("gzip", True), ("deflate, gzip", True), ("gzip;q=0.5", False), ("x-gzip", False), ("", False), ("*", False)],
)
def test_only_a_bare_gzip_asks_for_gzip(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_of_several_offers_the_best_covered_is_chosen() -> None:
    offered = ("application/gzip", "application/json")
    assert choose("", offered) == "application/gzip"
    assert choose("application/json, application/gzip;q=0.5", offered) == "application/json"
    assert choose("image/png", offered) is None
