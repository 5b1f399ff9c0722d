"""What makes two requests the same."""

import hashlib

import pytest

from sglang_diffusion_routing.proxy.identity import digest_of
from sglang_diffusion_routing.proxy.shape import LOOK_BYTES

pytestmark = pytest.mark.core

JSON = b"application/json"
CAT = hashlib.sha256(b'["a cat",42]').digest()


def form(*fields: tuple[str, str], boundary: str = "x") -> tuple[bytes, bytes]:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields
    ]
    return f"{''.join(parts)}--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}".encode()


def of(body: bytes, content_type: bytes = JSON, *, whole: bool = True) -> bytes:
    return digest_of(body, content_type, whole=whole)


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"a cat","seed":42}',
        b'{ "seed" : 42 ,\n "size": "512x512", "prompt" : "a \\u0063at" }',
        b'{"extra": {"prompt": "a dog", "seed": 1, "more": [{"seed": 2}]}, "prompt": "a cat", "seed": 42, "n": [1]}',
        b'{"prompt": "a dog", "prompt": "a cat", "seed": 42}',
    ],
)
def test_it_is_prompt_and_seed_however_they_are_written(body: bytes) -> None:
    assert of(body) == CAT
    assert of(body, b"") == CAT


def test_a_form_is_the_same_as_a_json_body() -> None:
    assert of(*form(("seed", "42"), ("prompt", "a cat"))) == CAT
    assert of(*form(("prompt", "a cat"), ("n", "1"), ("seed", " 42 "), boundary="y")) == CAT
    assert of(*form(("prompt", "a cat"), ("seed", "-42"))) == hashlib.sha256(b'["a cat",-42]').digest()


@pytest.mark.parametrize(
    ("body", "same"),
    [
        (b'{"prompt": "a dog", "seed": 42}', b'["a dog",42]'),
        (b'{"prompt": "a cat", "seed": 43}', b'["a cat",43]'),
        (b'{"prompt": "a cat", "seed": [1, 2]}', b'["a cat",[1,2]]'),
        (b'{"prompt": ["a cat", "a dog"], "seed": 7}', b'[["a cat","a dog"],7]'),
        (b'{"prompt": "a cat"}', b'["a cat",null]'),
        ('{"prompt": "über", "seed": 1}'.encode(), b'["\\u00fcber",1]'),
        (b'{"prompt": "\\ud800", "seed": 1}', b'["\\ud800",1]'),
    ],
)
def test_other_prompts_and_seeds_are_others(body: bytes, same: bytes) -> None:
    assert of(body) == hashlib.sha256(same).digest()


@pytest.mark.parametrize(
    "body",
    [b'{"seed": 42}', b'{"text": "a cat"}', b"\x00\x01", b'{"prompt": nonsense, "seed": 1}', b'{"prompt": "a cat'],
)
def test_without_a_prompt_it_is_all_that_was_looked_at(body: bytes) -> None:
    assert of(body) == hashlib.sha256(body).digest()


def test_a_form_without_a_prompt_is_the_same_whatever_its_boundary() -> None:
    one, other = form(("image", "..."), boundary="x1"), form(("image", "..."), boundary="y2")
    assert of(*one) == of(*other)
    assert of(*one) != of(*form(("image", "???"), boundary="x1"))


def test_of_a_long_body_the_first_look_counts_whatever_has_come() -> None:
    rest = b' "image": "' + b"x" * LOOK_BYTES
    early = b'{"prompt": "a cat", "seed": 42,' + rest
    assert of(early, whole=False) == of(early + b"yyyy", whole=True) == CAT
    # The seed may be behind the look, so that one without it is not one that leaves it open.
    unseeded = b'{"prompt": "a cat",' + rest
    assert (
        of(unseeded, whole=False)
        == of(unseeded + b"yyyy", whole=True)
        == hashlib.sha256(unseeded[:LOOK_BYTES]).digest()
    )
    late = b'{"image": "' + b"x" * LOOK_BYTES + b'", "prompt": "a cat", "seed": 42}'
    assert of(late) == hashlib.sha256(late[:LOOK_BYTES]).digest()


def test_a_number_that_the_look_ends_in_is_not_taken_for_whole() -> None:
    head = b'{"prompt": "a cat", "pad": "", "seed": 12'
    body = head.replace(b'""', b'"%b"' % (b"x" * (LOOK_BYTES - len(head)))) + b"34}"
    assert body[:LOOK_BYTES].endswith(b"12")
    assert of(body) == hashlib.sha256(body[:LOOK_BYTES]).digest()


def test_no_body_is_nothing() -> None:
    assert of(b"") == b""
