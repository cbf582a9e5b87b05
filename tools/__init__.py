"""What developers run beside the tests and the benchmarks; not part of the package."""
