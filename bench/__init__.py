"""Measures a whole server from outside, on loopback: `python -m bench --help`. Never imported by cacheserver.

Everything that makes load runs in a process of its own (load, watchers, fill), takes one job as a line of JSON and
answers with lines of JSON; the program itself only starts processes, asks and counts. Linux only: it reads /proc.
"""
