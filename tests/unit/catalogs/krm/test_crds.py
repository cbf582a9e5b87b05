"""Which kinds a package brings: what its definitions say, however they are written, at a bounded cost."""

from __future__ import annotations

import json

import pytest

from cacheserver.catalogs.bounds import DEFAULT
from cacheserver.catalogs.krm import crds

CANONICAL = b"""\
# made by controller-gen
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: backups.example.com
  annotations:
    note: "a long text
          that goes on"
spec:
  group: example.com
  names:
    kind: Backup
    plural: backups
  versions:
  - name: v1
    served: true
    schema:
      openAPIV3Schema:
        type: object
        description: |
          kind: Other
  - name: v1alpha1
    served: false
  - name: v1beta1
"""
BOTH = [("example.com", "v1", "Backup"), ("example.com", "v1beta1", "Backup")]


def found(content: bytes, path: str = "crd.yaml") -> list[crds.API]:
    apis, complete = crds.provided([(path, content)], DEFAULT)
    assert complete
    return apis


def test_served_versions_of_a_definition_are_provided() -> None:
    assert found(CANONICAL) == BOTH


def test_a_definition_of_another_indentation_is_read_whole() -> None:
    deep = CANONICAL.replace(b"\n  ", b"\n          ").replace(b"\n            ", b"\n                    ")
    indented = json.dumps(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "spec": {
                "group": "example.com",
                "names": {"kind": "Backup"},
                "versions": [{"name": "v1"}, {"name": "v1beta1"}],
            },
        },
        indent=9,
    ).encode()
    assert found(indented, "crd.json") == BOTH
    assert found(deep) in (BOTH, [])  # whichever YAML it is, nothing is raised


def test_definitions_stand_among_other_documents() -> None:
    service = b"kind: Service\nmetadata:\n  name: CustomResourceDefinition\n"
    assert found(service + b"---\n" + CANONICAL + b"---\n" + service) == BOTH


def test_the_old_form_has_one_version() -> None:
    old = b"kind: CustomResourceDefinition\nspec:\n  group: g.io\n  version: v1\n  names:\n    kind: Old\n"
    assert found(old) == [("g.io", "v1", "Old")]


@pytest.mark.parametrize(
    "content",
    [
        b"kind: CustomResourceDefinition\nspec: [",
        b"kind: CustomResourceDefinition\nspec:\n  group: 7\n",
        b"kind: CustomResourceDefinition\nspec:\n  names: [a]\n  versions: x\n",
        b"kind: CustomResourceDefinition\n\xff\xfe",
        b"kind: CustomResourceDefinition\nspec: *a",
        b"kind: CustomResourceDefinition\n" + b"a: &a [x,x,x,x,x,x,x,x]\n" + b"b: [" + b"*a," * 100 + b"]",
        b"kind: ConfigMap\ndata:\n  x: CustomResourceDefinition",
        b"",
    ],
)
def test_what_cannot_be_read_provides_nothing(content: bytes) -> None:
    assert found(content) == []


def test_only_manifests_are_looked_at() -> None:
    assert found(CANONICAL, "README.md") == []


def test_definitions_without_end_are_left_out_and_said_to_be() -> None:
    large = CANONICAL + b"  more:\n" + b"  - some more text that is not deep\n" * 40_000
    apis, complete = crds.provided([(f"{at}.yaml", large) for at in range(10)], DEFAULT)
    assert not complete
    assert apis[:2] == BOTH
