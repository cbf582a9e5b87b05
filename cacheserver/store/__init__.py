"""What etcd holds: keys and encoding of objects, claims and content. The only package that knows them."""
