"""ClusterCatalogs of OLM v1 where catalogd is not: read from Kubernetes and answered by what is published here."""
