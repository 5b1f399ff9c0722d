"""Tests of what is derived from the declarations."""

import itertools

import pytest

from sglang_diffusion_routing.settings.declared import Setting, declared, show
from sglang_diffusion_routing.settings.model import Settings

pytestmark = pytest.mark.core


def by_field() -> dict[str, Setting]:
    return {setting.field: setting for setting in declared()}


def test_every_field_is_listed_in_the_order_of_declaration() -> None:
    assert [setting.field for setting in declared()] == list(Settings.model_fields)


def test_names_flags_and_variables_are_unique() -> None:
    settings = declared()
    for names in ({s.name for s in settings}, {s.flag for s in settings}, {s.env for s in settings}):
        assert len(names) == len(settings)


def test_groups_stay_together() -> None:
    runs = [group for group, _ in itertools.groupby(setting.group for setting in declared())]
    assert len(runs) == len(set(runs))


@pytest.mark.parametrize(
    ("field", "flag", "env", "kind", "default", "bounds"),
    [
        ("port", "--port", "SGLANG_D_ROUTER_PORT", "number", "30080", "at least 0, at most 65535"),
        ("timeout_s", "--timeout", "SGLANG_D_ROUTER_TIMEOUT", "seconds or off", "off", "above 0"),
        ("busy_grace_s", "--busy-grace", "SGLANG_D_ROUTER_BUSY_GRACE", "seconds", "900", "at least 0"),
        ("queue_max_bytes", "--queue-max-bytes", "SGLANG_D_ROUTER_QUEUE_MAX_BYTES", "bytes", "256MiB", "at least 0"),
        ("worker_urls", "--worker-urls", "SGLANG_D_ROUTER_WORKER_URLS", "list of URL", "none", ""),
        ("on_disconnect", "--on-disconnect", "SGLANG_D_ROUTER_ON_DISCONNECT", "discard | cancel", "discard", ""),
        ("seed", "--seed", "SGLANG_D_ROUTER_SEED", "number or off", "off", ""),
        ("state", "--state", "SGLANG_D_ROUTER_STATE", "FILE or off", "auto", ""),
        ("resync", "--resync", "SGLANG_D_ROUTER_RESYNC", "switch", "true", ""),
        ("host", "--host", "SGLANG_D_ROUTER_HOST", "text", "0.0.0.0", ""),
        ("verbose", "--verbose", "SGLANG_D_ROUTER_VERBOSE", "switch", "false", ""),
    ],
)
def test_a_setting_is_described(field: str, flag: str, env: str, kind: str, default: str, bounds: str) -> None:
    setting = by_field()[field]
    assert (setting.flag, setting.env, setting.kind, setting.default, setting.bounds) == (
        flag,
        env,
        kind,
        default,
        bounds,
    )


def test_only_lists_take_many_and_only_booleans_are_switches() -> None:
    settings = declared()
    assert {s.field for s in settings if s.takes_many} == {
        "worker_urls",
        "trusted_peers",
        "allow_worker",
        "discover",
        "api_key",
        "admin_key",
        "allow_host",
        "retry_on",
        "tenant_weights",
    }
    assert {s.field for s in settings if s.is_switch} == {
        "verbose",
        "resume",
        "resync",
        "hands_off",
        "ramp",
        "hedge",
        "access_log",
    }


def test_only_text_that_may_be_off_has_a_flag_for_off() -> None:
    assert {s.flag for s in declared() if s.is_negatable} == {
        "--state",
        "--launcher-config",
        "--api-key-file",
        "--admin-key-file",
        "--worker-keys",
        "--audit-log",
        "--tls-cert",
        "--tls-key",
        "--tls-client-ca",
        "--worker-ca",
        "--worker-cert",
        "--worker-cert-key",
        "--otlp-endpoint",
    }


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("x_bytes", 1536, "1536"),
        ("x_bytes", 2048, "2KiB"),
        ("x_bytes", 0, "0"),
        ("x_s", 0.5, "0.5"),
        ("x_s", 86400.0, "86400"),
        ("x", ("a", "b"), "a b"),
        ("x", (), "none"),
        ("x", None, "off"),
        ("x", True, "true"),
    ],
)
def test_a_value_is_shown_as_people_write_it(field: str, value: object, text: str) -> None:
    assert show(field, value) == text
