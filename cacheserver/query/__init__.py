"""Answers over what the watch cache holds: upgrade graphs, paths, search. Pure: no I/O, no HTTP; called by api."""
