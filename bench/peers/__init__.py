"""Other programs that do what cacheserver does, to measure beside it."""
