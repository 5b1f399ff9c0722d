"""Which addresses and names may never be a worker, however they are spelt."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sglang_diffusion_routing.errors import InvalidField

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA_NAMES = frozenset(
    {
        "instance-data",  # AWS
        "instance-data.ec2.internal",
        "metadata",  # GCP, by its search domain
        "metadata.goog",
        "metadata.google.internal",
        "metadata.azure.internal",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
        "rancher-metadata",
    }
)
"""Host names under which clouds serve their instances' credentials."""

_METADATA_ADDRESSES: frozenset[_Address] = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, GCP, Azure, OpenStack and most others
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle, older images
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # GCP
        "fd00:42::42",  # Scaleway
    )
)

# 0.0.0.0/8 reaches this very machine on Linux (RFC 1122 §3.2.1.3 allows it as a source only): never a worker's address.
_THIS_HOST_V4 = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")

_LOW_32 = 0xFFFFFFFF
_IPV4_IN_LAST_32_BITS: tuple[ipaddress.IPv6Network, ...] = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, RFC 4291 §2.5.5.1
        "::ffff:0:0/96",  # IPv4-mapped, RFC 4291 §2.5.5.2
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765 §2.1
        "64:ff9b::/96",  # NAT64, RFC 6052 §2.1
    )
)
_NAT64_OWN = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOOPBACK_V6 = ipaddress.IPv6Address("::1")


def refused_address(ip_text: str) -> str | None:
    """Say why no worker may live at this address, or None if one may.

    Link-local addresses and the metadata services of clouds hand out credentials to whoever asks from the right
    machine; the router must not be made to ask. IPv4 inside IPv6 (mapped, NAT64, 6to4, Teredo, ISATAP) is looked into.

    Args:
        ip_text: an address as name resolution or `ipaddress` spells it; a zone (`fe80::1%eth0`) may follow.

    Returns:
        The end of a sentence, such as "is link-local".
    """
    bare = ip_text.partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return "is not an IP address"
    for candidate in (address, *_embedded(address)):
        why = _refused(candidate)
        if why is not None:
            return why
    return None


def _refused(address: _Address) -> str | None:
    if address in _METADATA_ADDRESSES:
        return "is the metadata service of a cloud"
    if address.is_link_local:
        return "is link-local"
    if address.is_multicast or address == _BROADCAST:
        return "is a multicast or broadcast address"
    if address.is_unspecified or (address.version == 4 and address in _THIS_HOST_V4):
        return "is the unspecified address"
    return None


def _embedded(address: _Address) -> Iterator[ipaddress.IPv4Address]:
    """Give every IPv4 address that packets to this IPv6 address may end up at."""
    if address.version == 4 or address == _LOOPBACK_V6:
        return
    number = int(address)
    if any(address in network for network in _IPV4_IN_LAST_32_BITS) or (number >> 32) & _LOW_32 in _ISATAP:
        yield ipaddress.IPv4Address(number & _LOW_32)
    if address in _NAT64_OWN:
        # RFC 6052 §2.2: the address stands in the last 32 bits, or, after a prefix of 48, in bits 48-63 and 72-87. What
        # is zero is the other form's padding.
        forms = (number & _LOW_32, ((number >> 64) & 0xFFFF) << 16 | (number >> 40) & 0xFFFF)
        yield from (ipaddress.IPv4Address(form) for form in forms if form)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


def ipv4_of_any_spelling(text: str) -> ipaddress.IPv4Address | None:
    """Read an IPv4 address as `inet_aton` does: one to four parts, decimal, octal (0...) or hexadecimal (0x...).

    Returns:
        The address, or None if the text is not one.
    """
    parts = text.lower().split(".")
    if not 1 <= len(parts) <= 4:
        return None
    numbers = [_number(part) for part in parts]
    head, last = numbers[:-1], numbers[-1]
    if last is None or last >= 1 << (8 * (5 - len(parts))):
        return None
    value = 0
    for number in head:
        if number is None or number > 255:
            return None
        value = value << 8 | number
    return ipaddress.IPv4Address(value << (8 * (5 - len(parts))) | last)


def _number(part: str) -> int | None:
    digits, base = part, 10
    if part.startswith("0x"):
        digits, base = part[2:] or "0", 16
    elif len(part) > 1 and part.startswith("0"):
        digits, base = part[1:], 8
    if not digits or not all(c in "0123456789abcdef"[:base] for c in digits):
        return None
    return int(digits, base)


ANY_PORT = range(1, 65_536)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class AllowedPlace:
    """Where workers may be: a lower-case name, or a network (an address is one of its own), and which ports."""

    place: str | _Network
    ports: range = ANY_PORT

    @classmethod
    def parse(cls, entry: str) -> AllowedPlace:
        """Read a host name, an address or a network in CIDR form; `:PORT` or `:PORT-PORT` may follow.

        IPv6 that ports follow stands in brackets: `[fd00::1]:30000`, `[fd00::]/8:30000-30100`.

        Raises:
            ValueError: with the end of a sentence that says what is wrong.
        """
        text = entry.strip().lower()
        place, colon, ports_text = _split_ports(text)
        ports = _ports(ports_text) if colon else ANY_PORT
        try:
            return cls(ipaddress.ip_network(place), ports)
        except ValueError as error:
            if "/" in place or not is_host_name(place):
                raise ValueError(f"is neither a host name, an address nor a network ({error})") from None
            return cls(place, ports)

    def holds(self, text: str, port: int) -> bool:
        """Tell whether a name or an address, and a port there, are allowed by this."""
        if port not in self.ports:
            return False
        if isinstance(self.place, str):
            return text == self.place
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return address in self.place


def _split_ports(text: str) -> tuple[str, str, str]:
    """Give the place without brackets, the colon before the ports if there is one, and the ports."""
    if text.startswith("["):
        inside, bracket, after = text[1:].partition("]")
        size, colon, ports = after.partition(":")
        if not bracket or (size and not size.startswith("/")):
            return text, "", ""
        return inside + size, colon, ports
    if text.count(":") > 1:
        return text, "", ""
    return text.partition(":")


def _ports(text: str) -> range:
    written = _PORTS.fullmatch(text)
    first, last = (int(written[1]), int(written[2] or written[1])) if written else (0, 0)
    if not 1 <= first <= last <= 65_535:
        raise ValueError("has ports that are neither one from 1 to 65535 nor a first and a last one (30000-30100)")
    return range(first, last + 1)


@dataclass(frozen=True, slots=True)
class AllowList:
    """The places where workers may be; empty allows all."""

    places: tuple[AllowedPlace, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """Read host names, addresses and networks, each with or without ports.

        Raises:
            InvalidField: naming the entry that is none of these.
        """
        places: list[AllowedPlace] = []
        for entry in entries:
            try:
                places.append(AllowedPlace.parse(entry))
            except ValueError as error:
                raise InvalidField("allow_worker", f"{entry!r} {error}") from None
        return cls(tuple(places))

    def __bool__(self) -> bool:
        return bool(self.places)

    def allows_host(self, host: str, port: int) -> bool:
        """Tell whether the host itself is listed, whatever it resolves to; an address counts as its own host."""
        return not self or any(place.holds(host, port) for place in self.places)

    def allows_address(self, ip_text: str, port: int) -> bool:
        """Tell whether an address that a name resolved to is listed; for names that are not listed themselves."""
        return self.allows_host(ip_text.partition("%")[0], port)


_LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def is_host_name(text: str) -> bool:
    """Tell whether this is a lower-case DNS name (RFC 1123 §2.1, and underscores, which container names have)."""
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and set(label) <= _LABEL_CHARACTERS and label[0] != "-" and label[-1] != "-"
        for label in text.split(".")
    )
