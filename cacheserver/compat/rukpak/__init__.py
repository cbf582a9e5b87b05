"""The kinds of rukpak-packageserver, as views of what is served: CatalogSource, CatalogCache and Package.

Of repositories that say so (spec.publish: [Rukpak]). Off until --rukpak; imported then.
"""

from cacheserver.compat.rukpak.door import kinds, projections

__all__ = ["kinds", "projections"]
