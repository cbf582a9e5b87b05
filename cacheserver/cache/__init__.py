"""What is served, in memory: state, recent events, indexes, and how fresh a read is. Knows no HTTP."""
