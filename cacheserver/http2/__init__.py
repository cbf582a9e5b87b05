"""HTTP/2 on the event loop, as much of it as gRPC takes: for our client of etcd, and for clients of the registry."""
