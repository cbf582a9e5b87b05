"""Caps on what one parse may read and build. Read by the workers; a breach is a finding that names the cap."""

from __future__ import annotations

from cacheserver.slotted import slotted

MIB = 1 << 20


@slotted(frozen=True)
class ParseLimits:
    """Each breach rejects one file or document, never the whole catalog."""

    file_bytes: int = 256 * MIB
    """As a source's own cap; the largest catalog known is 130 MB as one file."""
    document_bytes: int = 16 * MIB
    """Bounds every scalar as well. The largest bundle of 7,831 real ones is 1.05 MB."""
    documents: int = 200_000
    """Of one catalog: each is remembered, at about 2 KB for a bundle. The largest real catalog has about 5,000."""
    depth: int = 200
    """Nesting; below orjson's 254 so that what was read can be written. Real documents stay under 30."""
    containers: int = 500_000
    """Mappings and sequences in one document: `[[],[],...` costs 30 bytes of memory a byte."""
    alias_bytes: int = 1 * MIB
    """Text that aliases of one document may repeat. Real catalogs hold no alias at all."""
    findings: int = 100
    """Listed for one file; the rest is counted."""
    package_bytes: int = 64 * MIB
    """Of one revision of a KRM package: all its files. The largest real one has 1.7 MB; a worker holds them at once.
    Also of all documents of an FBC package as JSON, of which the largest real one has 2.0 MB."""
    package_files: int = 10_000
    """Of one revision of a KRM package. Real ones stay under 200."""
    record_bytes: int = 256 * 1024
    """Of one served object. Ours: a sixth of what etcd takes in a request (1.5 MiB, --max-request-bytes), and every
    replica and list carries it. The largest real object has 30 APIs and 265 skips, 20 KB."""
    key_bytes: int = 4096
    """Of an object's names, percent-encoded as in its key. Real ones stay under 200."""
    paths_bytes: int = 768 * 1024
    """Of the list of a revision's files as JSON: it is one record, written together with 512 KiB of content."""
