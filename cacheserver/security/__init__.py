"""Certificates and identities: how a peer is verified, and who it is then. Knows no HTTP."""
