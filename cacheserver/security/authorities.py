"""Certificate authorities whose client certificates count: asked about a connection's chain at every request."""

from __future__ import annotations

from cacheserver.security.tls import Peer
from cacheserver.security.x509 import Authority, parse_bundle, pem_blocks


class Bundle:
    """Certificate authorities. Empty: trusts nobody."""

    def __init__(self, pem: str = "") -> None:
        """Raises: ValueError for what is not a certificate."""
        self.pem = "".join(f"{block}\n" for block in pem_blocks(pem))
        """The certificates alone: bundles carry comments, in any alphabet, and ssl takes ASCII only."""
        self._until: dict[Authority, float] = {}
        for certificate in parse_bundle(pem):
            known = self._until.get(certificate.authority, 0.0)
            self._until[certificate.authority] = max(known, certificate.not_after)
        if pem.strip() and not self._until:
            raise ValueError("holds no certificate (PEM)")

    def trusted_until(self, peer: Peer) -> float:
        """Unix time until when the peer's chain leads to one of these and everything in it holds; 0: it does not.

        The chain was verified at the handshake; compared with the time at every request, and asked again of every new
        bundle, so a CA that went is no longer believed on connections made before.
        """
        ends = (min(link.until, self._until.get(link.authority, 0.0)) for link in peer.chain)
        return max(ends, default=0.0)

    def __len__(self) -> int:
        return len(self._until)


def parse_authorities(content: bytes) -> Bundle:
    """Of a file of certificates (PEM). Raises: ValueError, also for a file without one."""
    found = Bundle(content.decode("ascii", "replace"))
    if not found:
        raise ValueError("holds no certificate (PEM)")
    return found
