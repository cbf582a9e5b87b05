"""The Kubernetes side: the host cluster's API, and what it decides about those who ask ours.

Imported only when --kubernetes is on; kubernetes_asyncio, 280 ms and 72 MiB, is imported by `kubeapi` alone.
"""
