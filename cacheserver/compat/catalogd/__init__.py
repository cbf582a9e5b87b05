"""catalogd's HTTP API: whole catalogs and what is asked of them, for clients of OLM v1.

Paths, codes, headers and bodies are those of operator-framework/operator-controller, internal/catalogd/server
(handlers.go, http_preconditions_check.go), whose clients need not know the difference. docs/doors/catalogd.md.
"""
