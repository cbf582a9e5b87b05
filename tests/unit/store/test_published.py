"""The record of what doors show: small enough for etcd, and the same for the same content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from cacheserver.model import Digest, RepositoryKey
from cacheserver.store import published
from cacheserver.store.published import PublishedCatalog, PublishedPackage

KEY = RepositoryKey("ns", "repo")


def packages(count: int, name: str = "some-product-operator-{}") -> Sequence[PublishedPackage]:
    names = sorted(name.format(number) for number in range(count))
    return [PublishedPackage(each, digest(each), 100_000 + len(each), 25) for each in names]


def digest(text: str) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def catalog(packages: Sequence[PublishedPackage], others: Digest | None = None) -> PublishedCatalog:
    return PublishedCatalog(
        KEY, published.revision_of(packages, others or ""), 1_800_000_000, tuple(packages), others or ""
    )


def test_a_record_is_read_as_it_was_written() -> None:
    for each in (catalog(packages(3), digest("others")), catalog(packages(1)), catalog((), digest("others"))):
        assert published.decode(KEY, published.encode(each)) == each


def test_twenty_thousand_packages_fit_and_count_for_no_less_than_they_take() -> None:
    for count in (1, 267, 5_000, 20_000):
        made = catalog(packages(count))
        size = len(published.encode(made))
        assert size <= published.VALUE_BYTES
        assert size <= published.size_of([package.name for package in made.packages])


def test_a_revision_is_over_names_documents_and_others_alone() -> None:
    some = list(packages(2))
    at = published.revision_of(some, "")
    assert published.revision_of([replace(some[0], size=1, count=1), some[1]], "") == at
    assert published.revision_of([replace(some[0], name="another"), some[1]], "") != at
    assert published.revision_of([replace(some[0], documents=digest("new")), some[1]], "") != at
    assert published.revision_of(some[:1], "") != at
    assert published.revision_of(some, digest("others")) != at


def test_what_it_refers_to_is_every_document() -> None:
    some = packages(2)
    assert catalog(some, digest("others")).blobs == {some[0].documents, some[1].documents, digest("others")}
    assert catalog(some).blobs == {some[0].documents, some[1].documents}
