"""Running in a cluster: its API, its Repository objects, and its reviews of who asks us for what.

Imported only when --kubernetes is on; the part of kubernetes_asyncio that is used, by `library` alone.
"""
