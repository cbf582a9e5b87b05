"""PackageManifests, as OLM's package-server serves them: packages of repositories that say so, in a group of their own.

Objects are views of Packages (decision 53): what selects and lists them is in the Package, the rest is one blob a
package, made at ingest (catalogs/fbc/manifest.py). Off until --packagemanifests; imported then.
"""

from cacheserver.compat.packagemanifests.door import PackageManifests, projections

__all__ = ["PackageManifests", "projections"]
