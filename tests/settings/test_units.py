"""Tests of the readers of human-written values."""

import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sglang_diffusion_routing.settings import units

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        (30, 30),
        (0.5, 0.5),
        ("30s", 30),
        ("500ms", 0.5),
        ("15m", 900),
        ("15 min", 900),
        ("1h", 3600),
        (".5", 0.5),
    ],
)
def test_a_time_may_carry_its_unit(text: object, seconds: float) -> None:
    assert units.read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1d", "s", "1 2", "٣", True, None, [1], "1e3", "inf", "nan"])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds"):
        units.read_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), (0, 0), ("64KiB", 65536), ("64kib", 65536), ("1.5 MiB", 1572864), ("1GB", 10**9), ("10B", 10)],
)
def test_a_size_may_carry_its_unit(text: object, size: int) -> None:
    assert units.read_bytes(text) == size


@pytest.mark.parametrize("text", ["1.5", "0.3B", 1.5, math.nan, math.inf, 10**400])
def test_a_size_is_a_whole_number(text: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number of bytes"):
        units.read_bytes(text)


@pytest.mark.parametrize("text", ["2MiBs", "two", "", None, False, "1k"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a number of bytes"):
        units.read_bytes(text)


@given(
    st.integers(min_value=0, max_value=2**40), st.sampled_from([("KiB", 2**10), ("MiB", 2**20), ("kB", 1000), ("", 1)])
)
def test_a_size_is_its_number_times_its_unit(number: int, unit: tuple[str, int]) -> None:
    assert units.read_bytes(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize(("text", "count"), [("3", 3), (3, 3), (" 3 ", 3), ("-1", -1), ("+7", 7)])
def test_a_count_is_read(text: object, count: int) -> None:
    assert units.read_count(text) == count


@pytest.mark.parametrize("text", ["3.0", 3.0, True, "", "three", None, "9" * 30, "1_000"])
def test_what_is_no_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        units.read_count(text)


@pytest.mark.parametrize(
    ("text", "on"),
    [(True, True), ("Yes", True), ("1", True), ("on", True), (False, False), ("no", False), ("0", False)],
)
def test_a_switch_is_read(text: object, *, on: bool) -> None:
    assert units.read_switch(text) is on


@pytest.mark.parametrize("text", ["", "maybe", 1, None])
def test_what_is_no_switch_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be true or false"):
        units.read_switch(text)


@pytest.mark.parametrize("value", ["off", "None", " OFF ", False])
def test_the_words_for_no_limit_become_none(value: object) -> None:
    assert units.read_optional(value) is None


@pytest.mark.parametrize("value", [0, "0", "5", 1.5, True])
def test_other_values_are_left_to_the_next_reader(value: object) -> None:
    assert units.read_optional(value) is value


def test_text_may_be_off() -> None:
    assert [units.read_text_or_off(value) for value in ("a file", "off", False)] == ["a file", None, None]


def test_text_that_may_be_off_is_not_empty() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        units.read_text_or_off(" ")


@pytest.mark.parametrize(
    ("value", "words"),
    [("a,b c", ("a", "b", "c")), ("", ()), (["a", "b,c"], ("a", "b", "c")), (("a",), ("a",)), (" a , b ", ("a", "b"))],
)
def test_a_list_is_read(value: object, words: tuple[str, ...]) -> None:
    assert units.read_list(value) == words


@pytest.mark.parametrize("value", [3, None, [1], {"a": 1}, ["a", None]])
def test_what_is_no_list_of_words_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a list of words"):
        units.read_list(value)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32", "::1/128"])
def test_a_network_is_read(text: str) -> None:
    assert units.read_network(text) == ipaddress.ip_network(text)


def test_a_lone_address_is_a_network_of_one() -> None:
    assert units.read_network("10.1.2.3") == ipaddress.ip_network("10.1.2.3/32")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0", "example.com", "10.0.0.0/40"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must hold addresses or networks like 10\.0\.0\.0/8"):
        units.read_network(text)


@pytest.mark.parametrize("value", ["1 b", "1,b", [1, "b"], ["1", "b"]])
def test_whole_numbers_and_words_come_in_lists(value: object) -> None:
    assert units.read_counts_and_words(value) == (1, "b")


@pytest.mark.parametrize("value", [1, "1 b2", "5xx", [1.5], [True], [[1]]])
def test_a_list_of_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a"):
        units.read_counts_and_words(value)


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("one", ["one"]),
        ("one,two three", ["one", "two", "three"]),
        (["one", "two,three"], ["one", "two", "three"]),
        ((), []),
        ((SecretStr("one"),), ["one"]),
        ("!\"#$%&'()*+-./:;<=>?@[]^_`{|}~", ["!\"#$%&'()*+-./:;<=>?@[]^_`{|}~"]),
    ],
)
def test_keys_are_read(value: object, keys: list[str]) -> None:
    read = units.read_keys(value)
    assert [key.get_secret_value() for key in read] == keys
    assert not any(key in repr(read) for key in keys)


@pytest.mark.parametrize(
    "value", ["", " , ", [], [""], None, 1234, True, ["s3cret", 1], {"a": "s3cret"}, "s3crét", ["s3cret\0"]]
)
def test_what_is_no_key_is_refused_without_being_shown(value: object) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        units.read_keys(value)
    assert "s3cr" not in str(caught.value)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize(("text", "percent"), [("100", 100), (0.5, 0.5), ("0.5", 0.5), (0, 0)])
def test_a_percentage_may_have_a_fraction(text: object, percent: float) -> None:
    assert units.read_percent(text) == percent


@pytest.mark.parametrize("text", ["half", "50%", "", None, True, "nan"])
def test_what_is_no_percentage_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a number from 0 to 100"):
        units.read_percent(text)
