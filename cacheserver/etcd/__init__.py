"""The etcd client (`client`: the v3 calls we make) and the embedded etcd process (`embedded`).

Imports nothing by itself. API: https://etcd.io/docs/v3.5/learning/api/.
"""
