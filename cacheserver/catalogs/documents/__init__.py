"""YAML and JSON documents as Go programs read them. Knows no format of catalogs."""
