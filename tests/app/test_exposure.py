from itertools import product
from typing import Any

import pytest

from sglang_diffusion_routing.app.exposure import is_control_open, statement
from sglang_diffusion_routing.settings import Settings

KEYS = {"api_key_file": "a", "admin_key_file": "b"}
TLS = {"tls_cert": "c"}


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            {},
            [
                "  work, looking: open to the network (--api-key-file)",
                "  control: open to the network (--admin-key-file)",
                "  workers: at any address (--allow-worker)",
                "  bytes: in the clear (--tls-cert)",
            ],
        ),
        (
            {"host": "127.0.0.1"},
            ["  work, looking, control: open to this machine", "  workers: at any address"],
        ),
        (
            {"api_key": "k"},
            [
                "  work, looking: with an API key",
                "  control: with an API key (--admin-key-file)",
                "  workers: at any address (--allow-worker)",
                "  bytes: in the clear (--tls-cert)",
            ],
        ),
        (
            {"admin_key": "k"},
            [
                "  work, looking: open to the network (--api-key-file)",
                "  control: with the admin key",
                "  workers: at any address (--allow-worker)",
                "  bytes: in the clear (--tls-cert)",
            ],
        ),
        (
            {**KEYS, **TLS, "allow_worker": "10.0.0.0/8:30000-30100"},
            [
                "  work, looking: with an API key",
                "  control: with the admin key",
                "  workers: at listed addresses",
                "  bytes: encrypted",
            ],
        ),
        (
            {"admin_port": 0},
            [
                "  work: open to the network (--api-key-file)",
                "  looking, control: open to this machine",
                "  workers: at any address",
                "  bytes: in the clear (--tls-cert)",
            ],
        ),
        (
            {**TLS, "tls_client_ca": "d"},
            [
                "  work, looking, control: with a certificate",
                "  workers: at any address (--allow-worker)",
                "  bytes: encrypted",
            ],
        ),
        (
            {**KEYS, **TLS, "tls_client_ca": "d", "admin_port": 0, "admin_host": "::"},
            [
                "  work, looking: with certificate and API key",
                "  control: with certificate and admin key",
                "  workers: at any address (--allow-worker)",
                "  bytes: encrypted",
            ],
        ),
    ],
)
def test_what_is_open_to_whom_is_said_plainly(given: dict[str, Any], lines: list[str]) -> None:
    assert statement(Settings(**given)) == lines


def test_it_fits_a_narrow_terminal_whatever_is_set() -> None:
    choices = [
        [{}, {"host": "127.0.0.1"}],
        [{}, {"api_key": "k"}, {"admin_key": "k"}, KEYS],
        [{}, TLS, {**TLS, "tls_client_ca": "d"}],
        [{}, {"admin_port": 0}, {"admin_port": 0, "admin_host": "0.0.0.0"}],
        [{}, {"allow_worker": "10.0.0.0/8"}],
    ]
    for chosen in product(*choices):
        lines = statement(Settings(**{key: value for part in chosen for key, value in part.items()}))
        assert len(lines) <= 6
        assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(
    ("given", "is_open"),
    [
        ({}, True),
        ({"host": "10.0.0.1"}, True),
        ({"host": "router.example"}, True),
        (TLS, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"admin_port": 0}, False),
        ({"admin_port": 0, "admin_host": "0.0.0.0"}, True),
        ({"api_key": "k"}, False),
        ({"admin_key_file": "k"}, False),
        ({**TLS, "tls_client_ca": "d"}, False),
    ],
)
def test_control_is_open_when_anybody_on_the_network_may_change_the_fleet(given: dict[str, Any], is_open: bool) -> None:
    assert is_control_open(Settings(**given)) is is_open
