"""The gRPC registry that OLM v0 asks: a listener for each repository that is published so."""
