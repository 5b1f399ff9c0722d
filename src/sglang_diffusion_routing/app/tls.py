"""Take from the settings who the router is to its clients, and whom it believes to be its workers."""

from functools import partial

from sglang_diffusion_routing.app.reload import Reloads
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.http1.certificates import Identity, Trust
from sglang_diffusion_routing.http1.connect import Connector
from sglang_diffusion_routing.proxy.server import DataPlane
from sglang_diffusion_routing.settings import Settings


def use(settings: Settings, connector: Connector, plane: DataPlane, reloads: Reloads) -> None:
    """Have both sides use the files that the settings name, now and whenever files are read again.

    Raises:
        BadSetting: a file cannot be used, or is missing beside another.
    """
    ours, theirs = identity(settings), trust(settings)
    if ours is not None:
        plane.show(ours.context())
        reloads.add("certificate for clients", lambda: partial(plane.show, ours.context()))
    if theirs != Trust():
        connector.use(theirs.context())
        reloads.add("certificates for workers", lambda: partial(connector.use, theirs.context()))


def identity(settings: Settings) -> Identity | None:
    """Give the router's certificate; None when it speaks plain HTTP.

    Raises:
        BadSetting: something is set that means nothing without a certificate.
    """
    if settings.tls_cert is not None:
        return Identity(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    for flag, value in (("--tls-key", settings.tls_key), ("--tls-client-ca", settings.tls_client_ca)):
        if value is not None:
            raise BadSetting(flag, "says nothing without --tls-cert")
    return None


def trust(settings: Settings) -> Trust:
    """Give what https workers are checked by, and what they are shown.

    Raises:
        BadSetting: a key is set without its certificate.
    """
    if settings.worker_cert is None and settings.worker_cert_key is not None:
        raise BadSetting("--worker-cert-key", "says nothing without --worker-cert")
    return Trust(settings.worker_ca, settings.worker_cert, settings.worker_cert_key)
