"""The Kubernetes side: the host cluster's API, and what it decides about those who ask ours.

Imported only when --kubernetes is on; the part of kubernetes_asyncio that is used, by `library` alone.
"""
