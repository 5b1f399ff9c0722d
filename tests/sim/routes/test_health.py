from typing import Any

import pytest

from sim.conftest import Running, Start

pytestmark = pytest.mark.loopback

PATH = "/models/tiny-sd3-medium"
PIPELINE = "StableDiffusion3Pipeline"
CARD = {
    "id": PATH,
    "object": "model",
    "owned_by": "sglang",
    "root": PATH,
    "parent": None,
    "max_model_len": None,
    "num_gpus": 1,
    "task_type": "T2I",
    "supported_task_types": ["T2I"],
    "dit_precision": "bf16",
    "vae_precision": "fp32",
    "pipeline_name": PIPELINE,
    "pipeline_class": PIPELINE,
}
INFO = {
    "model_path": PATH,
    "is_generation": True,
    "model_type": "diffusion",
    "architectures": [PIPELINE],
    "has_image_understanding": False,
    "has_audio_understanding": False,
    "task_type": "T2I",
    "supported_task_types": ["T2I"],
    "output_types": ["IMAGE"],
    "is_image_gen": True,
}

# what a real worker answered, where nothing varies
RECORDED: list[tuple[str, int, Any]] = [
    ("/health", 200, {"status": "ok"}),
    ("/health_generate", 200, {"status": "ok"}),
    ("/liveness", 200, {"status": "ok"}),
    ("/model_info", 200, INFO),
    ("/v1/model_info", 200, {"model_path": PATH}),
    (
        "/models",
        200,
        {
            "model_path": PATH,
            "num_gpus": 1,
            "task_type": "T2I",
            "supported_task_types": ["T2I"],
            "dit_precision": "bf16",
            "vae_precision": "fp32",
            "vae_decode_precision": None,
            "pipeline_name": PIPELINE,
            "pipeline_class": PIPELINE,
        },
    ),
    (
        "/stats",
        200,
        {"status": "ok", "model_path": PATH, "disagg": {"role": "monolithic", "message": "not in disagg mode"}},
    ),
    ("/get_model_info", 404, {"detail": "Not Found"}),
    ("/get_server_info", 404, {"detail": "Not Found"}),
    ("/nonexist", 404, {"detail": "Not Found"}),
    ("/metrics", 404, {"detail": "Not Found"}),
    *(
        (
            f"/v1/models/{name}",
            404,
            {
                "error": {
                    "message": f"The model '{name}' does not exist",
                    "type": "invalid_request_error",
                    "param": "model",
                    "code": "model_not_found",
                }
            },
        )
        for name in ("nope", "")
    ),
]


@pytest.fixture
def tiny(start: Start) -> Running:
    return start(model_path=PATH)


@pytest.mark.parametrize(("path", "status", "body"), RECORDED)
def test_gets_answer_as_recorded(tiny: Running, path: str, status: int, body: Any) -> None:
    reply = tiny.get(path)
    assert (reply.status_code, reply.json()) == (status, body)
    assert list(reply.headers) == ["date", "server", "content-length", "content-type", "vary", "x-sim-worker"]
    assert {name: reply.headers[name] for name in ("server", "content-type", "vary")} == {
        "server": "uvicorn",
        "content-type": "application/json",
        "vary": "Origin",
    }


def test_the_models_list_has_one_card(tiny: Running) -> None:
    listed = tiny.get("/v1/models").json()
    created = listed["data"][0].pop("created")
    assert listed == {"object": "list", "data": [CARD]}
    assert isinstance(created, int)


def test_the_served_model_has_its_card(tiny: Running) -> None:
    card = tiny.get(f"/v1/models/{PATH}").json()
    assert card.pop("created") > 0
    assert card == CARD


def test_server_info_says_that_it_is_a_stand_in(tiny: Running) -> None:
    assert tiny.get("/server_info").json() == {
        "model_path": PATH,
        "served_model_name": PATH,
        "tp_size": 1,
        "dp_size": 1,
        "version": "0.5.23",
        "simulated": True,
        "simulated_by": "sglang-diffusion-routing",
    }


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("wan", ("T2V", ["VIDEO"], "WanPipeline", False)),
        ("edit", ("TI2I", ["IMAGE"], "QwenImageEditPipeline", True)),
        ("mesh", ("I2M", ["MESH"], "Hunyuan3D2Pipeline", True)),
    ],
)
def test_other_models_tell_their_tasks(start: Start, model: str, told: tuple[Any, ...]) -> None:
    info = start(model=model).get("/model_info").json()
    assert (
        info["task_type"],
        info["output_types"],
        info["architectures"][0],
        info["has_image_understanding"],
    ) == told


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/health"), ("POST", "/health"), ("PUT", "/v1/models")])
def test_other_methods_are_refused(tiny: Running, method: str, path: str) -> None:
    reply = tiny.client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")


def test_health_can_be_late(tiny: Running) -> None:
    tiny.sim.faults(health_delay_s=0.3)
    assert tiny.get("/health").elapsed.total_seconds() >= 0.3
    assert tiny.get("/liveness").status_code == 200


def test_metrics_are_served_on_request(start: Start) -> None:
    reply = start(enable_metrics=True).get("/metrics")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    values = [line for line in reply.text.splitlines() if not line.startswith("#")]
    assert values == [
        'sglang:diffusion_num_queue_reqs{replica="sim",role="monolithic"} 0.0',
        'sglang:diffusion_num_running_reqs{replica="sim",role="monolithic"} 0.0',
    ]
