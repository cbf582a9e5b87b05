"""A package cache for Kubernetes: catalogs of packages in, list, get and watch of them out."""

__version__ = "0.1.0"
