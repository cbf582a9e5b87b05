"""Writes over HTTP: bodies, patches, and the verbs that change something."""
