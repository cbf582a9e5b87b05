"""Watches: those who watch the same get the same bytes; who is slower goes at its own pace."""
