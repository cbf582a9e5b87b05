"""Text to value and back for every kind of setting: durations, sizes, counts, choices, addresses.

A parser raises ValueError with a sentence that says what is allowed; who calls it says where the text came from.
Knows no setting by name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from cacheserver.slotted import slotted

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
N = TypeVar("N", int, float)

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+\Z")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNITS_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_SIZE = re.compile(r"([0-9]+)(|k|M|G|Ki|Mi|Gi)\Z")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@slotted(frozen=True)
class Kind(Generic[T]):
    """How one kind of value is written. `parse` takes the text and the directory that relative paths start from."""

    metavar: str
    parse: Callable[[str, Path], T]
    show: Callable[[T], str] = str


@slotted(frozen=True)
class Address:
    """Where to listen. `host` is an IP address or `localhost`; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """True when only this machine can connect."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_duration(text: str) -> float:
    """Seconds. Go's notation: `500ms`, `10s`, `10m`, `1h30m`. Raises: ValueError."""
    if not _DURATION.match(text):
        raise ValueError(f"{text!r} is not a duration: write a number and a unit (ms, s, m, h), as in 10m or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION_PART.findall(text))


def show_duration(seconds: float) -> str:
    """The shortest text that parse_duration reads as `seconds` (to the millisecond): `10m`, `1h30m`, `1s500ms`."""
    rest = round(seconds * 1000)
    parts: list[str] = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Bytes. Kubernetes' notation: `4096`, `500k`, `64Mi`, `4Gi`. Raises: ValueError."""
    found = _SIZE.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size: write bytes as a whole number with a unit, as in 64Mi or 4Gi")
    return int(found[1]) * _UNITS_BYTES[found[2]]


def show_size(count: int) -> str:
    """Bytes in the largest unit that divides them, as parse_size reads them: `64Mi`."""
    for unit in ("Gi", "Mi", "Ki"):
        if count and count % _UNITS_BYTES[unit] == 0:
            return f"{count // _UNITS_BYTES[unit]}{unit}"
    return str(count)


def parse_address(text: str) -> Address:
    """`HOST:PORT`. Ours: only IP addresses and `localhost`, so that whether it is loopback is known without DNS.

    Raises: ValueError.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not an address: write HOST:PORT, as in 127.0.0.1:8001 or [::1]:8001")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{port!r} is not a port: 0 to 65535")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is neither an IP address nor localhost") from None
    return Address(host, int(port))


def parse_path(text: str, base: Path) -> Path:
    """`text` as a path; a relative one starts from `base`, `~` is the user's home. Raises: ValueError."""
    if not text or "\0" in text:
        raise ValueError("the path is empty" if not text else "the path holds a NUL")
    try:
        # Joined, not normalised: collapsing `..` would change the meaning behind a symbolic link.
        return base / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} starts with a ~ that names nobody's home; write ./{text} for a directory") from None


def parse_switch(text: str) -> bool:
    """Yes or no, in the ways that people write it, in any case. Raises: ValueError."""
    lowered = text.lower()
    if lowered not in _YES + _NO:
        raise ValueError(f"{text!r} is neither true nor false")
    return lowered in _YES


def parse_endpoints(text: str) -> tuple[str, ...]:
    """etcd's client URLs; empty for `embedded`. All http or all https: one connection setting serves them all.

    Raises: ValueError.
    """
    if text == "embedded":
        return ()
    endpoints = tuple(part.strip().rstrip("/") for part in text.split(","))
    for endpoint in endpoints:
        _check_endpoint(endpoint)
    if len({urlsplit(endpoint).scheme for endpoint in endpoints}) > 1:
        raise ValueError("mixes http and https endpoints; use one of them for all")
    return endpoints


def _check_endpoint(endpoint: str) -> None:
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError:
        raise ValueError(f"{endpoint!r} is not a URL") from None
    if "@" in url.netloc:
        # Not repeated in the message: what is before the @ may be a password.
        raise ValueError("an endpoint holds a user or password; use --etcd-user and --etcd-password-file")
    if url.scheme not in ("http", "https") or not url.hostname or port is None or url.path or url.query or url.fragment:
        raise ValueError(
            f"{endpoint!r} is not an etcd endpoint: write embedded, or http[s]://HOST:PORT, several with commas"
        )


def count(*, least: int, most: int) -> Kind[int]:
    """A whole number between `least` and `most`, both allowed."""

    def parse(text: str, _base: Path) -> int:
        if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return Kind("N", parse)


def duration(*, least_s: float, most_s: float) -> Kind[float]:
    """Seconds between `least_s` and `most_s`, both allowed."""
    return Kind("DURATION", _within(parse_duration, show_duration, least_s, most_s), show_duration)


def size(*, least: int, most: int) -> Kind[int]:
    """Bytes between `least` and `most`, both allowed."""
    return Kind("SIZE", _within(parse_size, show_size, least, most), show_size)


def _within(read: Callable[[str], N], show: Callable[[N], str], least: N, most: N) -> Callable[[str, Path], N]:
    def parse(text: str, _base: Path) -> N:
        value = read(text)
        if not least <= value <= most:
            raise ValueError(f"{text!r} is out of range: {show(least)} to {show(most)}")
        return value

    return parse


def choice(of: type[E]) -> Kind[E]:
    """One of the enum's values, in any case."""
    by_text = {str(member).lower(): member for member in of}
    allowed = ", ".join(str(member) for member in of)

    def parse(text: str, _base: Path) -> E:
        member = by_text.get(text.lower())
        if member is None:
            raise ValueError(f"{text!r} is none of: {allowed}")
        return member

    return Kind("|".join(str(member) for member in of), parse)


def _text(text: str, _base: Path) -> str:
    if not text:
        raise ValueError("is empty")
    return text


_URL_CHARACTERS = 256  # Ours: with /catalogs/ and two names behind it, half of the 525 that a ClusterCatalog takes


def _url(text: str, _base: Path) -> str:
    """http[s]://HOST[:PORT][/PATH], without a slash at its end. Raises: ValueError."""
    refused = ValueError(f"{text!r} is not a URL of a server: write https://HOST or https://HOST:PORT")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise refused from None
    if "@" in url.netloc:
        raise ValueError("the URL holds a user or password; everybody who may read ClusterCatalogs would see it")
    plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= _URL_CHARACTERS
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or url.query or url.fragment or not plain:
        raise refused
    return text.rstrip("/")


URL = Kind("URL", _url)
TEXT = Kind("TEXT", _text)
PATH = Kind("PATH", parse_path)
SWITCH: Kind[bool] = Kind("", lambda text, _base: parse_switch(text), lambda value: str(value).lower())
ADDRESS: Kind[Address] = Kind("HOST:PORT", lambda text, _base: parse_address(text))
ENDPOINTS: Kind[tuple[str, ...]] = Kind(
    "embedded|URL,...", lambda text, _base: parse_endpoints(text), lambda value: ",".join(value) or "embedded"
)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """As `kind`, where leaving it unset is a value of its own."""
    return Kind(kind.metavar, kind.parse, lambda value: "" if value is None else kind.show(value))
