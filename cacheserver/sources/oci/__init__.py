"""Container images as sources: from a registry, or from an image layout on disk."""
