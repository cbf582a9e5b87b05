"""How the pool and its workers separate messages: 4 bytes of length, big endian, before each."""

from __future__ import annotations

import struct
from typing import Final

LENGTH: Final = struct.Struct(">I")
LONGEST: Final = 1 << 30
"""No frame of ours comes near; a length beyond it means that the stream is broken."""
KRM: Final = b'["krm.'
"""What a job of krm/wire.py begins with, and none of fbc/wire.py does."""
REGISTRY: Final = b'["registry",'
"""What a job of fbc/registry/wire.py begins with."""
