"""The thin etcd client and the embedded etcd process."""
