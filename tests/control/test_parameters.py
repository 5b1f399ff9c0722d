import pytest

from sglang_diffusion_routing.control.parameters import (
    Pace,
    Part,
    read_pace,
    read_part,
    read_timeout,
    read_version,
    split_query,
)
from sglang_diffusion_routing.core.refit import Mode
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
        (b"max_unavailable=2&admit=new&x", {"max_unavailable": "2", "admit": "new"}, b"x"),
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


@pytest.mark.parametrize(
    ("own", "pace"),
    [
        ({}, Pace(Mode.DRAIN)),
        ({"mode": "drain"}, Pace(Mode.DRAIN)),
        ({"mode": "immediate"}, Pace(Mode.IMMEDIATE)),
        ({"mode": "rolling"}, Pace(Mode.ROLLING, at_once=1)),
        ({"mode": "rolling", "max_unavailable": "64"}, Pace(Mode.ROLLING, at_once=64)),
        ({"mode": "rolling", "admit": "new"}, Pace(Mode.ROLLING, at_once=1, admit_new=True)),
    ],
)
def test_the_pace_of_a_refit_is_read(own: dict[str, str], pace: Pace) -> None:
    assert read_pace(own) == pace


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"mode": ""}, "mode"),
        ({"mode": "ROLLING"}, "mode"),
        ({"max_unavailable": "1"}, "max_unavailable"),
        ({"mode": "immediate", "max_unavailable": "1"}, "max_unavailable"),
        ({"mode": "drain", "admit": "new"}, "admit"),
        ({"mode": "rolling", "admit": "old"}, "admit"),
        *(
            ({"mode": "rolling", "max_unavailable": text}, "max_unavailable")
            for text in ("", "0", "-1", "1.5", "1e3", "100000", "\u0661", "9" * 5000)
        ),
    ],
)
def test_a_pace_that_makes_no_sense_is_refused(own: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_pace(own)
    assert caught.value.facts == {"field": field}


@pytest.mark.parametrize(
    ("own", "part"),
    [
        ({}, None),
        ({"refit": "begin", "mode": "immediate", "timeout_s": "5", "weight_version": "v"}, Part.BEGIN),
        ({"refit": "part", "selector": "all"}, Part.PART),
        ({"refit": "commit"}, Part.COMMIT),
    ],
)
def test_a_part_of_a_refit_is_read(own: dict[str, str], part: Part | None) -> None:
    assert read_part(own) == part


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"refit": ""}, "refit"),
        ({"refit": "end"}, "refit"),
        ({"refit": "begin", "mode": "rolling"}, "mode"),
        ({"refit": "part", "mode": "drain"}, "mode"),
        ({"refit": "part", "timeout_s": "1"}, "timeout_s"),
        ({"refit": "commit", "weight_version": "v"}, "weight_version"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(own: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_part(own)
    assert caught.value.facts == {"field": field}


@pytest.mark.parametrize(
    ("in_query", "in_body", "version"),
    [(None, None, None), ("q", None, "q"), (None, "b", "b"), ("s", "s", "s"), (None, 12, "12"), ("12", 12, "12")],
)
def test_a_version_is_named_in_the_query_or_the_body(in_query: str | None, in_body: object, version: str) -> None:
    assert read_version(in_query, in_body) == version


@pytest.mark.parametrize(
    ("in_query", "in_body"),
    [("a", "b"), (None, True), (None, 1.5), (None, ["v"]), (None, ""), ("", None), ("a\nb", None), ("v" * 257, None)],
)
def test_what_is_no_version_is_refused(in_query: str | None, in_body: object) -> None:
    with pytest.raises(InvalidField) as caught:
        read_version(in_query, in_body)
    assert caught.value.facts == {"field": "weight_version"}
