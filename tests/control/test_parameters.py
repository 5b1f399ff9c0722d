import pytest

from sglang_diffusion_routing.control.parameters import read_timeout, split_query
from sglang_diffusion_routing.errors import InvalidField

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("query", "own", "rest"),
    [
        (b"", {}, b""),
        (b"selector=all", {"selector": "all"}, b""),
        (b"a=1&selector=all&b=%20+&&c", {"selector": "all"}, b"a=1&b=%20+&&c"),
        (b"%73elector=http%3A%2F%2Fa%3A1", {"selector": "http://a:1"}, b""),
        (b"Selector=all&selectors=x", {}, b"Selector=all&selectors=x"),
        (b"weight_version=v%C3%A9+1&timeout_s=5&mode=drain&refit=begin", {
            "weight_version": "vé 1", "timeout_s": "5", "mode": "drain", "refit": "begin",
        }, b""),
        (b"selector", {"selector": ""}, b""),
        (b"x=%ff&x=%ff", {}, b"x=%ff&x=%ff"),
    ],
)  # fmt: skip
def test_the_routers_own_parameters_are_taken_off_and_the_rest_is_left(
    query: bytes, own: dict[str, str], rest: bytes
) -> None:
    assert split_query(query) == (own, rest)


@pytest.mark.parametrize(
    ("query", "field"),
    [(b"selector=a&selector=b", "selector"), (b"mode=%ff", "mode"), (b"selector=\xff", "selector")],
)
def test_what_cannot_be_read_is_refused(query: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        split_query(query)
    assert caught.value.facts == {"field": field}


@pytest.mark.parametrize(("text", "timeout_s"), [("5", 5.0), ("0.5", 0.5), ("86400", 86_400.0), ("1e3", 1000.0)])
def test_a_timeout_is_a_number_of_seconds(text: str, timeout_s: float) -> None:
    assert read_timeout({"timeout_s": text}) == timeout_s


def test_no_timeout_is_none() -> None:
    assert read_timeout({}) is None


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "86401", "5s", "1e999"])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_timeout({"timeout_s": text})
    assert caught.value.facts == {"field": "timeout_s"}
