"""Watches: who watches the same, told from one piece of bytes, and each at its own pace."""
