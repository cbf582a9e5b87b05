"""Builds every part once and runs them: the server, its listener, the memory it gives back."""
