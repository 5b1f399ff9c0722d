import re

import pytest

from sglang_diffusion_routing.errors import InvalidField, InvalidWorkerUrl
from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head
from sglang_diffusion_routing.proxy.terms import (
    TENANT,
    group,
    min_version,
    priority,
    queue_timeout_s,
    stated_cost,
    tenant,
    worker,
)

pytestmark = pytest.mark.core

NAME = "x-sglang-router-min-weight-version"


def head(*fields: bytes) -> RequestHead:
    lines = b"".join(b"%b\r\n" % field for field in fields)
    return parse_request_head(b"POST /rollout/generate HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines, 1024)


def stating(value: bytes) -> RequestHead:
    return head(b"X-SGLang-Router-Cost: " + value)


def demanding(value: bytes) -> RequestHead:
    return head(b"X-SGLang-Router-Min-Weight-Version: " + value)


USER = b"x-user"


@pytest.mark.parametrize(("value", "name"), [(b"alice", "alice"), (b" team a ", "team a"), (b"t" * 64, "t" * 64)])
def test_the_tenant_is_what_the_field_says(value: bytes, name: str) -> None:
    assert tenant(head(b"X-SGLang-Router-Tenant: " + value), TENANT) == name
    assert tenant(head(b"X-User: " + value), USER) == name


@pytest.mark.parametrize("value", [b"", b" ", b"t" * 65, b"a\tb"])
def test_a_tenant_without_a_proper_name_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidField, match="must be a name of 1 to 64 printable characters") as caught:
        tenant(head(b"x-sglang-router-tenant: " + value), TENANT)
    assert caught.value.facts == {"field": "x-sglang-router-tenant"}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"Authorization: Bearer s3cret", b"authorization"),
        (b"Cookie: id=s3cret", b"cookie"),
        (b"X-API-Key: s3cret", b"x-api-key"),
        (b"X-Auth-Token: s3cret", b"x-auth-token"),
        (b"X-User: " + b"u" * 65, USER),
        (b"X-User: a\tb", USER),
    ],
)
def test_what_may_be_a_credential_or_cannot_be_shown_stands_as_a_digest(line: bytes, field: bytes) -> None:
    name = tenant(head(line), field)
    assert re.fullmatch("sha256:[0-9a-f]{16}", name)
    assert tenant(head(line), field) == name
    assert tenant(head(line + b"!"), field) != name


def test_another_field_that_is_not_there_or_empty_names_no_tenant() -> None:
    assert [tenant(head(*fields), USER) for fields in ((), (b"X-User:",))] == ["", ""]


def test_where_another_field_names_the_tenant_the_router_s_own_does_not() -> None:
    both = head(b"x-sglang-router-tenant: a", b"x-user: b")
    assert (tenant(both, USER), tenant(both, TENANT)) == ("b", "a")
    assert tenant(head(b"x-sglang-router-tenant: a"), USER) == ""


def test_a_request_without_terms_demands_nothing() -> None:
    plain = head()
    assert tenant(plain, TENANT) == ""
    assert (group(plain), min_version(plain), stated_cost(plain)) == (("", False), None, None)
    assert (queue_timeout_s(plain), worker(plain), priority(plain)) == (None, None, 0)


@pytest.mark.parametrize(
    ("value", "name", "spread"),
    [
        (b"prompt-7", "prompt-7", False),
        (b"a cat, 12", "a cat, 12", False),
        (b"prompt-7;spread", "prompt-7", True),
        (b" prompt-7 ; Spread ", "prompt-7", True),
        (b"g" * 256 + b";spread", "g" * 256, True),
        ("Katze über".encode(), "Katze über", False),
        ("Katze über".encode("latin-1"), "Katze über", False),
    ],
)
def test_the_group_is_what_the_field_says(value: bytes, name: str, *, spread: bool) -> None:
    assert group(head(b"x-sglang-router-group: " + value)) == (name, spread)


@pytest.mark.parametrize("value", [b"", b" ", b";spread", b"g" * 257, b"a\tb"])
def test_a_group_without_a_proper_name_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidField, match="begin with a name of 1 to 256 printable characters") as caught:
        group(head(b"x-sglang-router-group: " + value))
    assert caught.value.facts == {"field": "x-sglang-router-group"}


@pytest.mark.parametrize("value", [b"g;", b"g;keep", b"g;spread=1", b"g;spread;spread", b"g;;spread", b"g;spread;"])
def test_a_group_with_an_unknown_parameter_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidField, match="a name, or a name and ;spread") as caught:
        group(head(b"x-sglang-router-group: " + value))
    assert caught.value.facts == {"field": "x-sglang-router-group"}


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


def test_a_client_may_say_how_long_it_waits() -> None:
    assert [queue_timeout_s(head(b"x-sglang-router-queue-timeout: " + raw)) for raw in (b"30", b"0.25")] == [30.0, 0.25]


@pytest.mark.parametrize("raw", [b"", b"0", b"-1", b"nan", b"inf", b"5s"])
def test_how_long_must_be_a_positive_number(raw: bytes) -> None:
    with pytest.raises(InvalidField, match="must be a positive number of seconds") as caught:
        queue_timeout_s(head(b"x-sglang-router-queue-timeout: " + raw))
    assert caught.value.facts == {"field": "x-sglang-router-queue-timeout"}


@pytest.mark.parametrize("raw", [b"http://a:30000", b"HTTP://A:30000/", b"http%3A%2F%2Fa%3A30000"])
def test_a_worker_is_named_by_its_url_or_its_id(raw: bytes) -> None:
    assert worker(head(b"x-sglang-router-worker: " + raw)) == "http://a:30000"


@pytest.mark.parametrize("raw", [b"", b"a:30000", b"worker-3", b"http://a:30000/path", b"http://a:none"])
def test_a_worker_must_be_named_by_a_url(raw: bytes) -> None:
    with pytest.raises(InvalidWorkerUrl):
        worker(head(b"x-sglang-router-worker: " + raw))


@pytest.mark.parametrize(
    ("raw", "number"),
    [(b"training", 0), (b"batch", 0), (b"evaluation", 4), (b"Interactive", 8), (b"0", 0), (b"9", 9)],
)
def test_a_priority_is_a_name_or_a_number(raw: bytes, number: int) -> None:
    assert priority(head(b"x-sglang-router-priority: " + raw)) == number


@pytest.mark.parametrize("raw", [b"", b"-1", b"10", b"1.5", b"high", "²".encode(), b"9" * 5000])
def test_a_priority_out_of_range_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidField, match="batch, training, evaluation, interactive, or a whole number from 0 to 9"):
        priority(head(b"x-sglang-router-priority: " + raw))
