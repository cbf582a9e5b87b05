"""Packages of Kubernetes resources with a Kptfile (KRM)."""
