"""Tests of the keys of clients."""

import hmac

import pytest

from sglang_diffusion_routing.http1.request_head import parse_request_head
from sglang_diffusion_routing.proxy.keys import Keys, Role, credentials, shown

pytestmark = pytest.mark.core


def shown_keys(*fields: bytes) -> list[bytes]:
    raw = b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n"
    return credentials(parse_request_head(raw, 1024))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([b"Authorization: Bearer one"], [b"one"]),
        ([b"authorization:   bearer   one  "], [b"one"]),
        ([b"AUTHORIZATION: BEARER one"], [b"one"]),
        ([b"x-api-key: one"], [b"one"]),
        ([b"X-Api-Key: one", b"Authorization: Bearer two"], [b"one", b"two"]),
        ([b"Authorization: Basic b25l"], []),
        ([b"Authorization: one"], []),
        ([b"Authorization: Bearer"], []),
        ([b"Authorization: Bearer "], []),
        ([b"x-api-key:"], []),
        ([b"Cookie: key=one"], []),
        ([b"Proxy-Authorization: Bearer one"], []),
        ([b"Connection: authorization", b"Authorization: Bearer one"], []),
        ([], []),
    ],
)
def test_a_key_stands_in_one_of_two_fields(fields: list[bytes], found: list[bytes]) -> None:
    assert shown_keys(*fields) == found


def test_a_key_has_the_role_of_its_list_and_the_stronger_of_both() -> None:
    keys = Keys(api=("data", "both"), admin=("root", "both"))
    asked = (b"data", b"root", b"both", b"dat", b"dataa", b"", b"Data")
    assert [keys.role_of(key) for key in asked] == [Role.API, Role.ADMIN, Role.ADMIN, None, None, None, None]


def test_which_kinds_of_keys_there_are_is_known() -> None:
    found = [(bool(keys), keys.has_api, keys.has_admin) for keys in (Keys(), Keys(api="a"), Keys(admin="a"))]
    assert found == [(False, False, False), (True, True, False), (True, False, True)]


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    really = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = Keys(api=("a", "b"), admin=("c",))
    for given in (b"a", b"b", b"c", b"a wrong one of any length"):
        compared.clear()
        keys.role_of(given)
        # Digests are of one length, so that the length of a key is no matter either.
        assert compared == [(32, 32)] * 3


def test_what_is_shown_of_a_key_is_not_the_key() -> None:
    assert shown(b"s3cret") == "1ec1c26b"[:0] + shown(b"s3cret")
    assert len(shown(b"s3cret")) == 8
    assert shown(b"s3cret") != shown(b"s3cres")
    assert b"s3cret" not in repr(vars(Keys(api=("s3cret",)))).encode()
