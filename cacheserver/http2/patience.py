"""What a client of HTTP/2 may make us do for nothing: frames and calls cost it something, what is of use earns it back.

Asked by a connection and both of its parts; when it is used up the connection ends (ENHANCE_YOUR_CALM).
"""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 2000
"""Frames that lead to nothing. Each costs one, a call that the client gives up again 8. A call that is answered is
worth 8, a KiB that is sent 1, a second 100: clients send two frames for a call, and three for 64 KiB."""
A_CALL: Final = 8
_A_SECOND: Final = 100


class Patience:
    """Of one connection. now: on the loop's clock."""

    def __init__(self, now: float) -> None:
        self._left = float(PATIENCE)
        self._at = now

    def spend(self, cost: int) -> bool:
        """False: there is none left."""
        self._left -= cost
        return self._left >= 0

    def earn(self, worth: float) -> None:
        """Something was to some use."""
        self._left = min(self._left + worth, PATIENCE)

    def rest(self, now: float) -> None:
        """Time has gone by."""
        self.earn((now - self._at) * _A_SECOND)
        self._at = now
