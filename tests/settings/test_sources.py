"""Tests of where settings come from, and of the sentence that each bad one gets."""

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.settings import RoutingAlgorithm, Settings, load
from sglang_diffusion_routing.settings.declared import declared
from sglang_diffusion_routing.settings.yaml_file import MAX_BYTES

pytestmark = pytest.mark.core


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "router.yaml"


def refusal(
    flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> str:
    with pytest.raises(BadSetting) as caught:
        load(flags or {}, environ or {}, file)
    return caught.value.message


def test_nothing_given_means_the_defaults() -> None:
    assert load({}, {"PATH": "/bin"}) == Settings()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(config: Path) -> None:
    config.write_text("host: file\nport: 1\nretries: 3\n")
    environ = {"SGLANG_D_ROUTER_HOST": "environ", "SGLANG_D_ROUTER_PORT": "2"}
    settings = load({"host": "flag"}, environ, config)
    assert settings == Settings(host="flag", port=2, retries=3)


def test_text_and_yaml_values_mean_the_same(config: Path) -> None:
    config.write_text(
        """
        worker_urls: [http://a:1, http://b:2]
        timeout: off
        queue_timeout: 5m
        queue_max_bytes: 1GiB
        routing_algorithm: power-of-two
        trusted_peers: 10.0.0.0/8
        verbose: true
        seed: 7
        """
    )
    environ = {
        "SGLANG_D_ROUTER_WORKER_URLS": "http://a:1,http://b:2",
        "SGLANG_D_ROUTER_TIMEOUT": "off",
        "SGLANG_D_ROUTER_QUEUE_TIMEOUT": "300",
        "SGLANG_D_ROUTER_QUEUE_MAX_BYTES": str(2**30),
        "SGLANG_D_ROUTER_ROUTING_ALGORITHM": "power-of-two",
        "SGLANG_D_ROUTER_TRUSTED_PEERS": "10.0.0.0/8",
        "SGLANG_D_ROUTER_VERBOSE": "yes",
        "SGLANG_D_ROUTER_SEED": "7",
    }
    settings = load({}, {}, config)
    assert settings == load({}, environ)
    assert settings.worker_urls == ("http://a:1", "http://b:2")
    assert (settings.timeout_s, settings.queue_timeout_s, settings.queue_max_bytes) == (None, 300.0, 2**30)
    assert (settings.routing_algorithm, settings.verbose) == (RoutingAlgorithm.POWER_OF_TWO, True)


def test_the_environment_may_name_the_file(config: Path) -> None:
    config.write_text("port: 1\n")
    assert load({}, {"SGLANG_D_ROUTER_CONFIG": str(config)}) == Settings(port=1)


def test_an_empty_file_sets_nothing(config: Path) -> None:
    config.write_text("# nothing yet\n")
    assert load({}, {}, config) == Settings()


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("port: 1\nprt: 2", " line 2 'prt' is no setting of the router; did you mean port?"),
        ("zebra: 2", " line 1 'zebra' is no setting of the router"),
        ("timeout_s: 2", " line 1 'timeout_s' is no setting of the router; did you mean timeout?"),
        ("1: 2", " line 1 1 is no setting of the router"),
        ("port: 1\n\nport: 2", " line 3 'port' is set a second time"),
        ("port: 70000", " line 1: port must be at most 65535, not 70000"),
        ("port: true", " line 1: port must be a whole number, not True"),
        ("port:", " line 1: port must be a whole number, not None"),
        ("host: 3", " line 1: host must be text, not 3"),
        ("host: ''", " line 1: host must not be empty"),
        ("connect_timeout: 0", " line 1: connect_timeout must be above 0, not 0"),
        ("stall_timeout: .inf", " line 1: stall_timeout must be a finite number, not inf"),
        ("stall_timeout: 2000000h", " line 1: stall_timeout must be at most 31536000, not 2000000h"),
        ("on_disconnect: hope", " line 1: on_disconnect must be one of 'discard' or 'cancel', not 'hope'"),
        ("worker_urls: [3]", " line 1: worker_urls must be a list of words, not [3]"),
        ("- port", " line 1 must be a mapping of settings to values"),
        ("port: [1", " line 1 is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("host: !!python/object:os.system {}", None),
        ("a: &a [*a]", " line 1 is not valid YAML: found unconstructable recursive node"),
        ("host: \x01", " is not valid YAML: it holds a character that YAML does not allow"),
        ("--- 1\n--- 2", None),
    ],
)
def test_a_bad_file_gets_one_sentence_with_file_line_and_key(config: Path, yaml: str, sentence: str | None) -> None:
    config.write_text(yaml)
    message = refusal(file=config)
    assert message.startswith(str(config))
    assert "\n" not in message
    if sentence is not None:
        assert message == f"{config}{sentence}"


def test_a_file_that_is_not_there_is_named(config: Path) -> None:
    assert refusal(file=config) == f"{config} cannot be read: No such file or directory"


def test_a_file_of_endless_length_is_refused() -> None:
    assert refusal(file=Path("/dev/zero")) == f"/dev/zero is larger than {MAX_BYTES // 2**20} MiB"


def test_binary_junk_is_refused(config: Path) -> None:
    config.write_bytes(b"\xff\xfe\xfa\x00\x80")
    assert refusal(file=config).startswith(f"{config} is not valid YAML")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"SGLANG_D_ROUTER_PORT": "many"}, "SGLANG_D_ROUTER_PORT must be a whole number, not 'many'"),
        ({"SGLANG_D_ROUTER_PORT": ""}, "SGLANG_D_ROUTER_PORT must be a whole number, not ''"),
        (
            {"SGLANG_D_ROUTER_PROT": "1"},
            "SGLANG_D_ROUTER_PROT is no setting of the router; did you mean SGLANG_D_ROUTER_PORT?",
        ),
        (
            {"SGLANG_D_ROUTER_LOG_LEVEL": "loud"},
            "SGLANG_D_ROUTER_LOG_LEVEL must be one of 'debug', 'info', 'warning', 'error' or 'critical', not 'loud'",
        ),
        (
            {"SGLANG_D_ROUTER_TRUSTED_PEERS": "::1/8"},
            "SGLANG_D_ROUTER_TRUSTED_PEERS must hold addresses or networks like 10.0.0.0/8: ::1/8 has host bits set",
        ),
    ],
)
def test_a_bad_variable_gets_one_sentence_that_names_it(environ: dict[str, str], sentence: str) -> None:
    assert refusal(environ=environ) == sentence


def test_a_bad_flag_is_named_as_it_was_written() -> None:
    assert refusal(flags={"max_concurrency_per_worker": "-1"}) == (
        "--max-concurrency-per-worker must be at least 0, not -1"
    )


def test_a_bad_worker_url_is_named_with_its_flag() -> None:
    message = refusal(flags={"worker_urls": ["http://a:1", "http://b:99999"]})
    assert message.startswith("--worker-urls ")
    assert "http://b:99999" in message


def test_the_variables_that_kubernetes_makes_for_a_service_are_none_of_ours() -> None:
    environ = {
        "SGLANG_D_ROUTER_SERVICE_HOST": "10.0.0.1",
        "SGLANG_D_ROUTER_SERVICE_PORT": "30080",
        "SGLANG_D_ROUTER_SERVICE_PORT_HTTP": "30080",
        "SGLANG_D_ROUTER_PORT": "tcp://10.0.0.1:30080",
        "SGLANG_D_ROUTER_PORT_30080_TCP": "tcp://10.0.0.1:30080",
        "SGLANG_D_ROUTER_PORT_30080_TCP_PROTO": "tcp",
        "SGLANG_D_ROUTER_PORT_30080_TCP_PORT": "30080",
        "SGLANG_D_ROUTER_PORT_30080_TCP_ADDR": "10.0.0.1",
    }
    assert load({}, environ) == Settings()


_ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(string.printable), st.lists(st.text())
)


@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([setting.field for setting in declared()]), _ANYTHING)
def test_any_value_is_either_taken_or_refused_by_name(field: str, value: object) -> None:
    flag = next(setting.flag for setting in declared() if setting.field == field)
    try:
        assert isinstance(load({field: value}, {}), Settings)
    except BadSetting as error:
        assert error.message.startswith(flag)  # noqa: PT017 - both ends are right


def test_the_variable_that_tells_clients_where_the_router_is_does_not_keep_it_from_starting() -> None:
    assert load({}, {"SGLANG_D_ROUTER_URL": "http://router:30080"}) == Settings()


@pytest.mark.parametrize(
    ("flags", "environ", "where"),
    [
        ({"api_key": ["s3cret\x7f"]}, {}, "--api-key"),
        ({}, {"SGLANG_D_ROUTER_ADMIN_KEY": "s3crét"}, "SGLANG_D_ROUTER_ADMIN_KEY"),
    ],
)
def test_a_bad_key_is_named_by_its_place_alone(flags: dict[str, object], environ: dict[str, str], where: str) -> None:
    with pytest.raises(BadSetting) as caught:
        load(flags, environ)
    assert caught.value.message == f"{where} must be visible ASCII characters"


def test_keys_are_hidden_wherever_settings_are_shown() -> None:
    settings = load({"api_key": ["s3cret-1"]}, {"SGLANG_D_ROUTER_ADMIN_KEY": "s3cret-2,s3cret-3"})
    assert [key.get_secret_value() for key in (*settings.api_key, *settings.admin_key)] == [
        "s3cret-1",
        "s3cret-2",
        "s3cret-3",
    ]
    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert "s3cret" not in shown
