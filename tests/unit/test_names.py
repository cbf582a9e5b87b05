"""Object names are injective, valid, and left alone where real data needs nothing."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cacheserver.names import MAX_LABEL, MAX_NAME, package_label, package_name, revision_name

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")

repositories = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,3}[a-z0-9])?", fullmatch=True)
component = st.one_of(
    st.sampled_from(["a", "v1", "1", "0", "x", "x--2e", "a-b", "a--b", "-a", "A", "a.b", "1.2.3", "v1.2.3", "3-rc"]),
    st.text(alphabet="av01x.-+_/ Zé", max_size=6).map(lambda s: s.replace("/", "")),
)
paths = st.lists(component, min_size=1, max_size=4).map("/".join)
revisions = st.one_of(
    component,
    st.sampled_from(["0", "1", "2", "v1.0.0", "1.2.3-rc.1", "1.2.3+a.b", "2.3.4", "1.2.3/4", "1.2.3-4.5.6", "main"]),
)
identities = st.tuples(repositories, paths, revisions)


@given(identities, identities)
@example(("r", "a/v1/0", "0"), ("r", "a", "v1.0.0"))
@example(("r", "a/v1", "1.2.3"), ("r", "a", "v1.1.2"))
@example(("r", "1/2/3-rc", "4.5.6"), ("r", "", "1.2.3-rc.4.5.6"))
@example(("r", "a", "b.c"), ("r", "a/b", "c"))
@example(("r", "a/b", "c"), ("r", "a.b", "c"))
def test_different_revisions_never_share_a_name(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (revision_name(*one) == revision_name(*other)) == (one == other)


@given(identities, identities)
def test_different_packages_never_share_a_name(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (package_name(*one[:2]) == package_name(*other[:2])) == (one[:2] == other[:2])


@given(identities)
@example(("r", "p" * 300, "v1"))
def test_every_name_is_a_valid_object_name(identity: tuple[str, str, str]) -> None:
    name = revision_name(*identity)
    assert SUBDOMAIN.match(name)
    assert len(name) <= MAX_NAME


def test_long_names_that_differ_only_in_their_tail_stay_different() -> None:
    assert revision_name("r", "p" * 300, "v1") != revision_name("r", "p" * 300, "v2")


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (("community", "project-quay", "3.14.2"), "community.project-quay.3.14.2"),
        (("nephio", "infra/capi/cluster-capi", "v3.0.0"), "nephio.infra.capi.cluster-capi.v3.0.0"),
        (("nephio", "infra/capi/cluster-capi", "main"), "nephio.infra.capi.cluster-capi.main"),
        (("g", "gatekeeper", "3.15.1+0.1726639477.p"), "g.gatekeeper.3.15.1x--2b0.1726639477.p"),
    ],
)
def test_names_of_real_data_stay_readable(identity: tuple[str, str, str], name: str) -> None:
    assert revision_name(*identity) == name


LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")


@given(paths, paths)
@example("network/dns", "network.dns")
@example("a/", "a")
@example("A", "a")
@example("x--41", "A")
def test_different_packages_never_share_a_label(one: str, other: str) -> None:
    assert (package_label(one) == package_label(other)) == (one == other)


@given(paths)
@example("p" * 64)
@example("a/" * 40 + "_")
def test_every_package_has_a_valid_label(path: str) -> None:
    assert LABEL_VALUE.match(package_label(path))
    assert len(package_label(path)) <= MAX_LABEL


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("project-quay", "project-quay"),
        ("network/dns", "network.dns"),
        ("infra/capi/cluster_capi/V2", "infra.capi.cluster_capi.V2"),
        ("network.dns", "networkx--2edns"),
    ],
)
def test_labels_of_real_data_stay_readable(path: str, label: str) -> None:
    assert package_label(path) == label
