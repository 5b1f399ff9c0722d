"""The same clients over TLS, with a certificate that their owner trusts."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest
import requests

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.authority import Authority
from support.router import RouterProcess

pytestmark = pytest.mark.e2e

IMAGE = {"prompt": "a fox", "size": "64x64", "num_inference_steps": 1, "response_format": "b64_json", "seed": 3}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority: Authority, workers: dict[str, SimInThread]) -> Iterator[str]:
    files = authority.issue("127.0.0.1", "localhost")
    flags = ("--tls-cert", files.cert, "--tls-key", files.key, "--api-key", "secret")
    with RouterProcess([workers["sd3"].url], *flags) as router:
        yield f"https://127.0.0.1:{router.port}"


@pytest.fixture(scope="module")
def expected(workers: dict[str, SimInThread]) -> str:
    return image_in(requests.post(f"{workers['sd3'].url}/v1/images/generations", json=IMAGE, timeout=30).json())


def image_in(reply: dict[str, list[dict[str, str]]]) -> str:
    return reply["data"][0]["b64_json"]


def test_openais(secure: str, authority: Authority, expected: str) -> None:
    http = httpx2.Client(verify=ssl.create_default_context(cafile=authority.ca))
    with openai.OpenAI(base_url=f"{secure}/v1", api_key="secret", http_client=http) as client:
        made = client.images.generate(
            prompt="a fox",
            size="64x64",
            response_format="b64_json",
            extra_body={"num_inference_steps": 1, "seed": 3},
        )
    assert made.data[0].b64_json == expected


def test_openais_without_trust(secure: str) -> None:
    client = openai.OpenAI(base_url=f"{secure}/v1", api_key="secret", max_retries=0)
    with client, pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_requests(secure: str, authority: Authority, expected: str) -> None:
    headers = {"authorization": "Bearer secret"}
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
        session.verify = authority.ca
        for _ in range(3):
            reply = session.post(f"{secure}/v1/images/generations", json=IMAGE, headers=headers, timeout=30)
            assert image_in(reply.json()) == expected


async def test_aiohttp(secure: str, authority: Authority, expected: str) -> None:
    trust = ssl.create_default_context(cafile=authority.ca)
    connector = aiohttp.TCPConnector(ssl=trust)
    async with (
        aiohttp.ClientSession(secure, connector=connector, headers={"x-api-key": "secret"}) as session,
        session.post("/v1/images/generations", json=IMAGE) as reply,
    ):
        assert image_in(await reply.json()) == expected


def test_curl(secure: str, authority: Authority, expected: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text('header = "authorization: Bearer secret"\n')
    command = ["curl", "--silent", "--max-time", "30", "--cacert", authority.ca, "-K", tmp_path / "key"]
    command += ["-H", "content-type: application/json", "-d", json.dumps(IMAGE), f"{secure}/v1/images/generations"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=40.0)
    assert image_in(json.loads(done.stdout)) == expected
