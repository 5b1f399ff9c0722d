"""A worker's address: checked, and spelt in one way only."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sglang_diffusion_routing.core.address import METADATA_NAMES, ipv4_of_any_spelling, is_host_name, refused_address
from sglang_diffusion_routing.errors import InvalidWorkerUrl

_DEFAULT_PORTS = {"http": 80, "https": 443}

# A host name has at most 253 characters (RFC 1035 §2.3.4); the scheme, a port and a slash fit into the rest.
_MAX_LENGTH = 280

_USERINFO = re.compile(r"//[^/?#]*@")
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    """A checked worker address: scheme, host and port, nothing else.

    scheme: "http" or "https". host: lower-case name, IPv4, or canonical IPv6 without brackets. port: 1-65535.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> WorkerUrl:
        """Check a worker URL and bring it into its one spelling.

        Names that are not ASCII must come in their xn-- form, and IPv4 addresses as four decimal numbers: every other
        spelling has been used to slip an address past a check like this one.

        Raises:
            InvalidWorkerUrl: with one sentence that says what is wrong; a password in the URL is not repeated.
        """
        try:
            return cls._parse(text)
        except _Unfit as unfit:
            raise InvalidWorkerUrl(_presentable(text), str(unfit)) from None

    @classmethod
    def _parse(cls, text: str) -> WorkerUrl:
        if len(text) > _MAX_LENGTH:
            raise _Unfit(f"is longer than {_MAX_LENGTH} characters")
        if _NOT_PRINTABLE_ASCII.search(text) is not None:
            raise _Unfit("has a space, a control character or a character outside ASCII")
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in _DEFAULT_PORTS:
            raise _Unfit("must begin with http:// or https://")
        authority = _only_authority(rest)
        host, port_text = _split_port(authority)
        port = _DEFAULT_PORTS[scheme] if port_text is None else _port(port_text)
        return cls(scheme, host, port)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as the Host header wants them: IPv6 in brackets, no default port."""
        if self.port == _DEFAULT_PORTS[self.scheme]:
            return self._bracketed
        return self.display_id

    @property
    def display_id(self) -> str:
        """Host and port, always both."""
        return f"{self._bracketed}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class _Unfit(Exception):
    """The end of the sentence that says what is wrong with a URL."""


def _presentable(text: str) -> str:
    shown = _USERINFO.sub("//...@", text[:_MAX_LENGTH])
    # Cut within the credentials, the sign that ends them is missing: then nothing after the scheme is shown.
    if "@" in text and "@" not in shown:
        return text.partition("//")[0] + "//..."
    return shown if len(text) <= _MAX_LENGTH else shown[:80] + "..."


def _only_authority(rest: str) -> str:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if "@" in authority:
        raise _Unfit("must not carry credentials")
    if "#" in tail:
        raise _Unfit("must not have a fragment")
    if "?" in tail:
        raise _Unfit("must not have a query")
    if tail not in {"", "/"}:
        raise _Unfit("must not have a path")
    return authority


def _split_port(authority: str) -> tuple[str, str | None]:
    """Give the canonical host, without brackets, and the text after its colon, None without a colon."""
    if authority.startswith("["):
        inside, bracket, after = authority[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise _Unfit("has an IPv6 address that is not closed by ] before the port")
        return _ipv6(inside), after[1:] if after else None
    host, colon, port_text = authority.partition(":")
    if ":" in port_text:
        raise _Unfit("has more than one colon in its host; IPv6 addresses stand in [brackets]")
    return _name_or_ipv4(host), port_text if colon else None


def _port(text: str) -> int:
    if not text:
        raise _Unfit("has a colon but no port")
    if not (text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535):
        raise _Unfit("has a port that is not a number from 1 to 65535")
    return int(text)


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise _Unfit("has no valid IPv6 address between [ and ]") from None
    if address.scope_id is not None:
        raise _Unfit("must not have a zone in its address")
    _refuse(str(address))
    # The same endpoint, so the same worker; and Python releases do not agree on how to spell it (bpo-87799).
    return str(address) if address.ipv4_mapped is None else str(address.ipv4_mapped)


def _name_or_ipv4(text: str) -> str:
    host = text.lower()
    if not host:
        raise _Unfit("has no host")
    if host.rstrip(".") in METADATA_NAMES:
        raise _Unfit("names the metadata service of a cloud")
    if not is_host_name(host):
        raise _Unfit("has a host that is neither a DNS name nor an address")
    last_label = host.rpartition(".")[2]
    if not (last_label.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last_label)):
        return host
    address = ipv4_of_any_spelling(host)
    if address is None:
        raise _Unfit("has a host that ends in a number but is no IPv4 address")
    _refuse(str(address))
    if str(address) != host:
        raise _Unfit(f"has an IPv4 address that is not written as four decimal numbers ({address})")
    return host


def _refuse(address: str) -> None:
    why = refused_address(address)
    if why is not None:
        raise _Unfit(f"has an address ({address}) that {why}")
