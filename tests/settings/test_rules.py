"""Tests of the rules for values of settings."""

import pytest
from pydantic import ValidationError

from sglang_diffusion_routing.settings import TIMEOUT, Settings

pytestmark = pytest.mark.core


def test_worker_urls_are_brought_to_one_form_and_kept_once_in_order() -> None:
    settings = Settings(worker_urls=("http://B:80/", "http://a:8000", "http://b"))
    assert settings.worker_urls == ("http://b", "http://a:8000")


def test_a_bad_worker_url_is_refused() -> None:
    with pytest.raises(ValidationError, match="ftp://a"):
        Settings(worker_urls=("ftp://a",))


def test_allowed_workers_are_names_addresses_and_networks() -> None:
    entries = ("gpu-1.cluster.local", "10.1.2.3:80", "10.0.0.0/8:30000-30100", "2001:db8::/32")
    assert Settings(allow_worker=entries).allow_worker == entries


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "http://a", "a/b", "-x"])
def test_other_allowed_workers_are_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match=r"neither a host name|ports that are neither"):
        Settings(allow_worker=("localhost", entry))


def test_sources_of_workers_are_brought_to_one_form_and_kept_once_in_order() -> None:
    sources = ("file:///etc/workers", "dns://Workers:80/", "file:/etc/workers")
    assert Settings(discover=sources).discover == ("file:/etc/workers", "dns://workers:80")


def test_a_source_of_any_other_form_is_refused() -> None:
    with pytest.raises(ValidationError, match="'workers:80' is neither dns://NAME:PORT nor file:PATH"):
        Settings(discover=("workers:80",))


def test_the_field_of_the_tenant_is_in_lower_case() -> None:
    assert (Settings().tenant_field, Settings(tenant_field="X-User").tenant_field) == (
        "x-sglang-router-tenant",
        "x-user",
    )


@pytest.mark.parametrize("name", ["", "x user", "x:user", "Host", "X-Forwarded-For", "x-sglang-router-group"])
def test_a_field_that_tells_no_tenants_apart_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="must name a field of a request that tells clients apart"):
        Settings(tenant_field=name)


def test_weights_of_tenants_are_kept_as_they_are_given() -> None:
    assert Settings(tenant_weights=("a=3", "b=0.5")).tenant_weights == ("a=3", "b=0.5")


@pytest.mark.parametrize("entry", ["a", "=1", "a=", "a=x", "a=0", "a=-1", "a=inf", "a=nan", "a=1001"])
def test_what_is_no_weight_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match="is not NAME=WEIGHT with a weight"):
        Settings(tenant_weights=("b=1", entry))


def test_two_weights_for_one_tenant_are_refused() -> None:
    with pytest.raises(ValidationError, match="'a' has two weights"):
        Settings(tenant_weights=("a=1", "a=2"))


@pytest.mark.parametrize("value", ["500 503", "500,503", [500, 503], ["500", "503"], (500, 503)])
def test_failures_to_try_elsewhere_are_given_by_their_statuses(value: object) -> None:
    assert Settings.model_validate({"retry_on": value}).retry_on == (500, 503)


def test_what_is_late_may_be_tried_elsewhere_too() -> None:
    for value in ("502 timeout", "502,timeout", [502, "timeout"]):
        assert Settings.model_validate({"retry_on": value}).retry_on == (502, TIMEOUT)


@pytest.mark.parametrize("value", ["499", "501", "5xx", [500.0], 500, "timeouts", [True]])
def test_only_failures_of_workers_can_be_tried_elsewhere(value: object) -> None:
    with pytest.raises(ValidationError, match="retry_on"):
        Settings.model_validate({"retry_on": value})


@pytest.mark.parametrize("url", ["http://127.0.0.1:4318", "https://collector", "http://[::1]:4318/otlp", None])
def test_a_collector_is_an_address(url: str | None) -> None:
    assert Settings(otlp_endpoint=url).otlp_endpoint == url


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://c:4317", "http://", "http://c:99999", "http://c:0", "c"])
def test_what_is_no_address_of_a_collector_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be the address of a collector"):
        Settings(otlp_endpoint=url)


def test_the_key_of_a_collector_is_not_part_of_its_address() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(otlp_endpoint="http://me:s3cret@c:4318")
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(raised.value)
