"""Tests of the launcher file: what it may say, and the sentence that each mistake gets."""

import re
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.launchers.config import BackendName, LauncherConfig, backends_of, names, read

pytestmark = pytest.mark.core

AS_DOCUMENTED = """\
launcher:
  backend: local            # or ray
  model: Qwen/Qwen-Image    # required
  num_workers: 8
  num_gpus_per_worker: 1
  worker_host: "127.0.0.1"
  worker_base_port: 10090
  worker_gpu_ids: null
  worker_extra_args: "--dit-cpu-offload false"
  wait_timeout: 600
  master_port_base: 30005
  scheduler_port_base: 5555
  internal_port_stride: 1000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "launcher.yaml"


def read_text(file: Path, text: str) -> LauncherConfig:
    file.write_text(text)
    return read(file)


def test_the_file_that_the_older_routers_take_is_taken_as_it_stands(file: Path) -> None:
    assert read_text(file, AS_DOCUMENTED) == LauncherConfig(
        backend=BackendName.LOCAL,
        model="Qwen/Qwen-Image",
        num_workers=8,
        num_gpus_per_worker=1,
        worker_host="127.0.0.1",
        worker_base_port=10_090,
        worker_gpu_ids=None,
        worker_extra_args=("--dit-cpu-offload", "false"),
        wait_timeout_s=600.0,
        master_port_base=30_005,
        scheduler_port_base=5555,
        internal_port_stride=1000,
    )


def test_the_same_file_is_taken_for_ray(file: Path) -> None:
    config = read_text(file, AS_DOCUMENTED.replace("backend: local", "backend: ray"))
    assert config == read_text(file, AS_DOCUMENTED).model_copy(update={"backend": BackendName.RAY})


def test_the_example_says_the_same() -> None:
    example = Path(__file__).parents[2] / "examples" / "local_launcher.yaml"
    as_documented = [line.partition("#")[0].split() for line in AS_DOCUMENTED.splitlines()]
    lines = [line.partition("#")[0].split() for line in example.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line] == as_documented
    assert read(example).num_workers == 8


def test_a_model_is_all_that_must_be_said(file: Path) -> None:
    assert read_text(file, "launcher: {model: m}\n") == LauncherConfig(model="m")


def test_values_may_be_written_as_people_write_them(file: Path) -> None:
    config = read_text(
        file,
        """\
launcher:
  model: m
  num_workers: 2
  num_gpus_per_worker: 2
  worker_gpu_ids: ["0, 1", "GPU-5, GPU-6"]
  worker_extra_args: [--guidance, 3.5, --name, "with blanks"]
  worker_command: python -m 'my engine'
  worker_env: {OMP_NUM_THREADS: 1, HF_HUB_OFFLINE: "1"}
  wait_timeout: 15m
  log_max: 1MiB
""",
    )
    assert config.worker_gpu_ids == ("0,1", "GPU-5,GPU-6")
    assert config.worker_extra_args == ("--guidance", "3.5", "--name", "with blanks")
    assert config.worker_command == ("python", "-m", "my engine")
    assert config.worker_env == {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    assert (config.wait_timeout_s, config.log_max_bytes) == (900.0, 2**20)


def test_one_gpu_a_worker_may_be_written_as_a_number(file: Path) -> None:
    config = read_text(file, "launcher: {model: m, num_workers: 2, worker_gpu_ids: [3, 4]}\n")
    assert config.worker_gpu_ids == ("3", "4")


def test_a_command_of_the_operators_has_placeholders(file: Path) -> None:
    config = read_text(
        file,
        """\
launcher:
  backend: external
  model: m
  command: srun sglang serve --model-path {model} --port {port}
  stop_command: [scancel, "--name=worker-{index}"]
  url: "http://gpu-{index}:{port}"
""",
    )
    assert config.command == ("srun", "sglang", "serve", "--model-path", "{model}", "--port", "{port}")
    assert (config.stop_command, config.url) == (("scancel", "--name=worker-{index}"), "http://gpu-{index}:{port}")


KNOWN = "only {index}, {model}, {gpus}, {host}, {port}, {master_port}, {scheduler_port}; {{ and }} stand for braces"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("model: m", "2: command is missing, and the backend external needs it"),
        (
            "model: m\n  command: run {prt}",
            f"4: command has no placeholder {{prt}}, {KNOWN}",
        ),
        (
            "model: m\n  command: run\n  stop_command: stop {port",
            "5: stop_command has a brace that is not closed, or not opened, in '{port'; {{ and }} stand for braces",
        ),
        (
            "model: m\n  command: run\n  url: http://{host}:{prot}",
            f"5: url has no placeholder {{prot}}, {KNOWN}",
        ),
        (
            "model: m\n  command: run\n  url_pattern: 'ready on http'",
            "5: url_pattern has no group, which would be the URL, as in 'listening on (http://\\S+)'",
        ),
        (
            "model: m\n  command: run\n  url_pattern: '('",
            "5: url_pattern is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            "model: m\n  command: run\n  url: http://a\n  url_pattern: '(a)'",
            "5: url and url_pattern cannot both be given",
        ),
        (
            "model: m\n  command: run\n  worker_command: sglang serve",
            "5: worker_command means nothing to the backend external, only to local and ray",
        ),
    ],
)
def test_what_is_wrong_with_a_command_gets_one_sentence(file: Path, lines: str, sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_text(file, f"launcher:\n  backend: external\n  {lines}\n")
    assert caught.value.message == f"{file} line {sentence}"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("backend: slurm", "backend must be one of 'local', 'ray' or 'external', not 'slurm'"),
        ("num_workers: 0", "num_workers must be at least 1, not 0"),
        ("num_workers: eight", "num_workers must be a whole number, not 'eight'"),
        ("num_workers: 1.5", "num_workers must be a whole number, not 1.5"),
        ("num_workers: true", "num_workers must be a whole number, not True"),
        ("worker_base_port: 65535", "worker_base_port must be at most 65534, not 65535"),
        ("wait_timeout: 0", "wait_timeout must be above 0, not 0"),
        ("wait_timeout: soon", "wait_timeout must be a number of seconds (30, 500ms, 15m, 1h), not 'soon'"),
        ('worker_extra_args: "--a \'"', "worker_extra_args cannot be split into words: no closing quotation"),
        (
            "worker_extra_args: [--offload, false]",
            "worker_extra_args must hold words and numbers, not False; what YAML takes for something else needs quotes",
        ),
        ("worker_extra_args: 7", "worker_extra_args must be text or a list of words, not 7"),
        ("worker_command: []", "worker_command must not be empty"),
        (
            "worker_gpu_ids: '0,1'",
            'worker_gpu_ids must be null or a list with one entry a worker, as ["0,1", "2,3"], not \'0,1\'',
        ),
        ("worker_gpu_ids: ['0,']", "worker_gpu_ids must name GPUs with commas between them, not '0,'"),
        ("worker_env: [A]", "worker_env must be a mapping of names to values, not ['A']"),
        ("worker_env: {A=: 1}", "worker_env must not have 'A=' for a name"),
    ],
)
def test_a_bad_value_gets_one_sentence_with_its_key_and_line(file: Path, line: str, sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_text(file, f"launcher:\n  model: m\n  {line}\n")
    assert caught.value.message == f"{file} line 3: {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", " has no 'launcher'"),
        ("luncher: {}\n", " line 1 'luncher' is not known here; a launcher file has the one key 'launcher'"),
        ("launcher: {model: m}\nlauncher: {model: m}\n", " line 2 'launcher' is set a second time"),
        ("\nlauncher: local\n", " line 2: launcher must be a mapping of settings to values"),
        ("launcher:\n", " line 1: launcher must be a mapping of settings to values"),
        ("# here\nlauncher:\n  num_workers: 8\n", " line 2: model is missing"),
        (
            "launcher:\n  model: m\n  num_worker: 8\n",
            " line 3 'num_worker' is no setting of a launcher; did you mean num_workers?",
        ),
        ("launcher:\n  model: m\n  7: 8\n", " line 3 7 is no setting of a launcher"),
        ("launcher:\n  model: m\n  model: n\n", " line 3 'model' is set a second time"),
        ("launcher:\n  model: ''\n", " line 2: model must not be empty"),
        ("launcher:\n  model: 7\n", " line 2: model must be text, not 7"),
        (
            "launcher:\n  model: m\n  num_workers: 2\n  worker_gpu_ids: ['0']\n",
            " line 4: worker_gpu_ids must have one entry for each of 2 workers, not 1",
        ),
        (
            "launcher:\n  model: m\n  num_gpus_per_worker: 2\n  worker_gpu_ids: ['0']\n",
            " line 4: worker_gpu_ids gives worker 0 1 GPUs, not 2",
        ),
        (
            "launcher:\n  model: m\n  backend: ray\n  worker_gpu_ids: ['0']\n",
            " line 4: worker_gpu_ids means nothing to the backend ray, only to local",
        ),
    ],
)
def test_a_mistake_gets_one_sentence_with_its_key_and_line(file: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_text(file, text)
    assert caught.value.message == f"{file}{sentence}"


@pytest.mark.parametrize("value", ["null", "[]", "{}", "2020-01-01", "!!binary aGk=", "-1", "1e400", ".nan", "true"])
@pytest.mark.parametrize("name", names().values())
def test_whatever_stands_behind_a_key_it_is_taken_or_gets_one_sentence(file: Path, name: str, value: str) -> None:
    model = "" if name == "model" else "  model: m\n"
    try:
        read_text(file, f"launcher:\n{model}  {name}: {value}\n")
    except BadSetting as error:
        assert re.fullmatch(rf"{file} line \d: {name} [^\n]+", error.message)  # noqa: PT017 - either way is good


def test_every_key_says_what_it_means_and_to_whom() -> None:
    for field, declared in LauncherConfig.model_fields.items():
        assert declared.description, field
        assert set(backends_of(field)) <= set(BackendName), field
