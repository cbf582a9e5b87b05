"""What a bundle asks of others: kinds, also those of its CSV alone, and constraints as they are written."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cacheserver.catalogs.bounds import DEFAULT
from cacheserver.catalogs.fbc import bundle
from cacheserver.catalogs.fbc import facts as f

THING = ("g.io", "v1", "Thing")
METRIC = ("metrics.g.io", "v1beta1", "Metric")
DESCRIBED = {
    "crdDescriptions": {"required": [{"name": "things.g.io", "version": "v1", "kind": "Thing"}]},
    "apiServiceDefinitions": {
        "required": [{"name": "x", "group": "metrics.g.io", "version": "v1beta1", "kind": "Metric"}]
    },
}


def facts(*properties: tuple[str, Any]) -> f.Bundle:
    said = [{"type": kind, "value": value} for kind, value in properties]
    document: Any = {
        "schema": "olm.bundle",
        "name": "app.v1",
        "package": "app",
        "image": "r.io/a:v1",
        "properties": said,
    }
    found = bundle.read(document, "app", "app.v1", DEFAULT).facts
    assert not found.problems
    assert isinstance(found.subject, f.Bundle)
    assert f.decode(f.encode(found)) == found
    return found.subject


def csv(spec: Any) -> tuple[str, Any]:
    manifest = {"kind": "ClusterServiceVersion", "metadata": {"name": "app.v1"}, "spec": spec}
    return "olm.bundle.object", {"data": base64.b64encode(json.dumps(manifest).encode()).decode()}


def test_kinds_that_a_csv_requires_are_required_once() -> None:
    gvk = {"group": "g.io", "version": "v1", "kind": "Thing"}
    assert facts(("olm.csv.metadata", DESCRIBED)).required == (THING, METRIC)
    assert facts(("olm.gvk.required", gvk), ("olm.csv.metadata", DESCRIBED)).required == (THING, METRIC)
    spec = {
        "customresourcedefinitions": DESCRIBED["crdDescriptions"],
        "apiservicedefinitions": DESCRIBED["apiServiceDefinitions"],
    }
    assert facts(csv(spec)).required == (THING, METRIC)


@pytest.mark.parametrize(
    "listed", [None, "x", {}, ["x", None, {}], [{"name": "things", "version": "v1", "kind": "T"}], [{"name": 1}]]
)
def test_what_a_csv_says_wrongly_requires_nothing(listed: Any) -> None:
    assert facts(("olm.csv.metadata", {"crdDescriptions": {"required": listed}})).required == ()
    assert facts(csv({"customresourcedefinitions": {"required": listed}})).required == ()


def test_constraints_are_kept_as_they_are_written() -> None:
    rule = {"failureMessage": "no", "all": {"constraints": [{"package": {"packageName": "a", "versionRange": "1.x"}}]}}
    assert facts(("olm.constraint", rule), ("olm.constraint", None)).constraints == (
        '{"all":{"constraints":[{"package":{"packageName":"a","versionRange":"1.x"}}]},"failureMessage":"no"}',
        "null",
    )


def test_too_many_constraints_are_cut_and_said_to_be() -> None:
    many = [("olm.constraint", {"cel": {"rule": f"{at} " + "x" * 1_000}}) for at in range(400)]
    found = facts(*many)
    assert len(found.constraints) < 400
    assert found.cut == ("constraints",)
