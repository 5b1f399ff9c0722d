import pytest

from sglang_diffusion_routing.app import tls
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.http1.certificates import Identity, Trust
from sglang_diffusion_routing.settings import Settings


def test_without_a_certificate_the_router_speaks_plain_http() -> None:
    assert tls.identity(Settings()) is None
    assert tls.trust(Settings()) == Trust()


def test_the_files_of_both_sides_are_taken_from_the_settings() -> None:
    settings = Settings(
        tls_cert="a", tls_key="b", tls_client_ca="c", worker_ca="d", worker_cert="e", worker_cert_key="f"
    )
    assert tls.identity(settings) == Identity("a", "b", "c")
    assert tls.trust(settings) == Trust("d", "e", "f")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_key": "a"}, "--tls-key says nothing without --tls-cert"),
        ({"tls_client_ca": "a"}, "--tls-client-ca says nothing without --tls-cert"),
    ],
)
def test_what_means_nothing_without_a_certificate_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(BadSetting) as caught:
        tls.identity(Settings.model_validate(given))
    assert caught.value.message == message


def test_a_key_for_workers_without_its_certificate_is_refused() -> None:
    with pytest.raises(BadSetting) as caught:
        tls.trust(Settings(worker_cert_key="a"))
    assert caught.value.message == "--worker-cert-key says nothing without --worker-cert"
