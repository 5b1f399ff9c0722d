import pytest

from sglang_diffusion_routing.errors import InvalidField
from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head
from sglang_diffusion_routing.proxy.terms import group, min_version, stated_cost

pytestmark = pytest.mark.core

NAME = "x-sglang-router-min-weight-version"


def head(*fields: bytes) -> RequestHead:
    lines = b"".join(b"%b\r\n" % field for field in fields)
    return parse_request_head(b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines, 1024)


def stating(value: bytes) -> RequestHead:
    return head(b"X-SGLang-Router-Cost: " + value)


def demanding(value: bytes) -> RequestHead:
    return head(b"X-SGLang-Router-Min-Weight-Version: " + value)


def test_a_request_without_terms_demands_nothing() -> None:
    assert (group(head()), min_version(head()), stated_cost(head())) == ("", None, None)


def test_the_group_is_what_the_field_says() -> None:
    assert group(head(b"x-sglang-router-group: prompt-7")) == "prompt-7"


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (b"step-7", "step-7"),
        (b"  7 of 9 ", "7 of 9"),
        (b"0", "0"),
        (b"v" * 256, "v" * 256),
        ("Schritt über".encode(), "Schritt über"),
        ("Schritt über".encode("latin-1"), "Schritt über"),
    ],
)
def test_a_demand_is_what_the_field_says(value: bytes, version: str) -> None:
    assert min_version(demanding(value)) == version


@pytest.mark.parametrize("value", [b"", b"   ", b"v" * 257, b"a\tb", "a\u200bb".encode()])
def test_a_demand_that_no_version_can_meet_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidField, match="weight version of 1 to 256 printable characters") as caught:
        min_version(demanding(value))
    assert caught.value.facts == {"field": NAME}


def test_a_client_may_state_the_work() -> None:
    stated = [stated_cost(stating(raw)) for raw in (b"1", b"2.5", b"1e3", b"1e300", b"1e-300")]
    assert stated == [1.0, 2.5, 1000.0, 1e12, 1e-6]


@pytest.mark.parametrize("raw", [b"", b"0", b"-1", b"nan", b"inf", b"1,5", b"many", b"\xff"])
def test_what_is_stated_must_be_a_positive_number(raw: bytes) -> None:
    with pytest.raises(InvalidField, match="must be a positive number of megapixel-steps"):
        stated_cost(stating(raw))
