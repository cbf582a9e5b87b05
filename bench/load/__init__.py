"""Makers of load and of data to put it on."""
