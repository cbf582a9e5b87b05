"""What to do about a certificate that was not trusted: by what is wrong with it, as OpenSSL or libcurl says."""

from __future__ import annotations

import re
from typing import Final

_OTHER_NAME: Final = "it is not for the name that was asked for; use a name that it has, or have one issued that has it"
_ENDED: Final = "it has ended, or has not begun; renew it, and see whether the clocks are right"

# openssl-verification-options(1), x509_vfy_error_string in OpenSSL's crypto/x509/x509_txt.c, which Python quotes; and
# libcurl's lib/vtls, which git quotes. First match wins.
_REMEDIES: Final = (
    (r"(Hostname|IP address) mismatch|does not match target host name|no alternative certificate subject", _OTHER_NAME),
    (r"certificate (has expired|is not yet valid)", _ENDED),
)


def remedy(said: str, otherwise: str) -> str:
    """said: of the library that refused it. otherwise: what is to be done where nobody known signed it."""
    return next((found for pattern, found in _REMEDIES if re.search(pattern, said)), otherwise)
