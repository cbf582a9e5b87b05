"""What operator-registry makes of a package for its clients: bundles as messages, and their CSVs. Runs in a worker."""
