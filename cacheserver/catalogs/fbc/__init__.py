"""File-based catalogs of the Operator Lifecycle Manager (FBC)."""
