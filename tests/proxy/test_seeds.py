import pytest

from sglang_diffusion_routing.proxy.seeds import names_a_seed

pytestmark = pytest.mark.core

FORM = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n'


@pytest.mark.parametrize("seed", [b"0", b"7", b"[1, 2]"])
def test_a_number_or_one_for_each_output_fixes_the_result(seed: bytes) -> None:
    assert names_a_seed(b'{"prompt": "a", "seed": %b}' % seed, b"application/json")


@pytest.mark.parametrize("seed", [b"null", b'"7"', b"true", b"1.5", b"[]", b"[1, null]", b"{}"])
def test_nothing_else_does(seed: bytes) -> None:
    assert not names_a_seed(b'{"seed": %b}' % seed, b"application/json")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"seed": 7', b"[7]", b'{"a": {"seed": 7}}', b"\xff", b"[" * 100_000])
def test_a_body_without_one_of_its_own_does_not_name_one(body: bytes) -> None:
    assert not names_a_seed(body, b"application/json")


@pytest.mark.parametrize(
    ("name", "value", "named"), [(b"seed", b"7", True), (b"seed", b"", False), (b"s", b"7", False)]
)
def test_a_form_names_it_in_a_field(name: bytes, value: bytes, named: bool) -> None:
    assert names_a_seed(FORM % (name, value), b"multipart/form-data; boundary=x") is named
