"""TLS contexts from files of certificates and keys, for both sides of the router."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from sglang_diffusion_routing.errors import BadSetting

ALPN = ["http/1.1"]
OLDEST = ssl.TLSVersion.TLSv1_2


class HandshakeFailed(ssl.SSLError):
    """A client cannot be let in. alert: the bytes that tell it why, still to be sent (RFC 8446 §6.2)."""

    def __init__(self, error: ssl.SSLError, alert: bytes) -> None:
        super().__init__(*error.args)
        self.alert = alert


class _Handshake(ssl.SSLObject):
    """A server's TLS in memory that gives up its last alert: uvloop drops it with the connection."""

    outgoing: ssl.MemoryBIO

    @override
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            raise HandshakeFailed(error, self.outgoing.read()) from error


class _ServerContext(ssl.SSLContext):
    sslobject_class = _Handshake

    @override
    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        tls = super().wrap_bio(incoming, outgoing, *args, **options)
        assert isinstance(tls, _Handshake)
        tls.outgoing = outgoing
        return tls


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the router is to its clients.

    cert: PEM file, its own certificate first, then those up to the authority.
    key: PEM file, not encrypted; None when it is in the same file.
    client_ca: PEM file of authorities, one of which must have issued a certificate to the client; None asks for none.
    """

    cert: str
    key: str | None = None
    client_ca: str | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            BadSetting: one is missing, no PEM, encrypted, or does not belong to the other.
        """
        context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
        _modern(context)
        _load_own(context, self.cert, self.key, ("--tls-cert", "--tls-key"))
        if self.client_ca is not None:
            _load_authorities(context, self.client_ca, "--tls-client-ca")
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the router believes to be its workers, and who it is to them.

    ca: PEM file of the only authorities that count; None for those of the system.
    cert, key: as those of `Identity`, for workers that ask for a certificate; None for none.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files; certificates and names of workers are always checked.

        Raises:
            BadSetting: one is missing, no PEM, encrypted, or does not belong to the other.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _modern(context)
        if self.ca is None:
            context.load_default_certs()
        else:
            _load_authorities(context, self.ca, "--worker-ca")
        if self.cert is not None:
            _load_own(context, self.cert, self.key, ("--worker-cert", "--worker-cert-key"))
        return context


def _modern(context: ssl.SSLContext) -> None:
    context.minimum_version = OLDEST
    context.set_alpn_protocols(ALPN)


def _load_own(context: ssl.SSLContext, cert: str, key: str | None, flags: tuple[str, str]) -> None:
    asked = False

    def password() -> bytes:
        # Without this OpenSSL asks on the terminal, and a service hangs there for ever.
        nonlocal asked
        asked = True
        return b""

    _readable(cert, flags[0])
    if key is not None:
        _readable(key, flags[1])
    try:
        context.load_cert_chain(cert, key, password)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            why = f"names an encrypted key, {key or cert}; the router wants it decrypted, and readable for itself alone"
            raise BadSetting(flags[1], why) from None
        why = f"name no certificate with the key that belongs to it: {cert}, {key or cert} ({_reason(error)})"
        raise BadSetting(" and ".join(flags), why) from None


def _load_authorities(context: ssl.SSLContext, path: str, flag: str) -> None:
    _readable(path, flag)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise BadSetting(flag, f"names a file without certificates, {path} ({_reason(error)})") from None


def _readable(path: str, flag: str) -> None:
    """Say which file it is that cannot be read: OpenSSL says that it is one of two."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise BadSetting(flag, f"names a file that cannot be read, {path} ({why})") from None


def _reason(error: Exception) -> str:
    """Give OpenSSL's word for what is wrong, without the line of its source."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or str(error)).replace("_", " ").lower()
