"""Tests of the keys that workers want."""

import pytest

from sglang_diffusion_routing.core.worker_keys import WorkerKeys
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import InvalidField

pytestmark = pytest.mark.core


def key_of(pattern: str, url: str) -> str | None:
    return WorkerKeys.parse([(pattern, "k")]).find(WorkerUrl.parse(url))


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("http://gpu-1:30000", "http://gpu-1:30000"),
        ("HTTP://GPU-1:30000/", "http://gpu-1:30000"),
        ("gpu-1", "http://gpu-1:30000"),
        ("gpu-1", "https://gpu-1"),
        ("gpu-1:30000", "https://gpu-1:30000"),
        ("gpu-*", "http://gpu-17.cluster.local:1"),
        ("*.cluster.local:80", "http://gpu-17.cluster.local"),
        ("*", "http://10.0.0.1:8"),
        ("https://gpu-1", "https://gpu-1"),
        ("10.0.0.0/8", "http://10.1.2.3:8"),
        ("10.1.2.3", "http://10.1.2.3:8"),
        ("10.1.2.3:8", "http://10.1.2.3:8"),
        ("[fd00::]/8", "http://[fd00::1]:8"),
        ("[fd00::1]:8", "http://[fd00::1]:8"),
    ],
)
def test_a_pattern_fits_its_workers(pattern: str, url: str) -> None:
    assert key_of(pattern, url) == "k"


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("http://gpu-1:30000", "http://gpu-1:30001"),
        ("http://gpu-1:30000", "https://gpu-1:30000"),
        ("https://gpu-1", "http://gpu-1"),
        ("https://gpu-1", "https://gpu-1:444"),
        ("http://gpu-1", "http://gpu-1:30000"),
        ("gpu-1", "http://gpu-10"),
        ("gpu-1", "http://x.gpu-1"),
        ("10.0.0.0/8", "http://11.0.0.1"),
        ("10.0.0.0/8", "http://10.example.com"),
        ("[fd00::]/8", "http://[fe00::1]"),
    ],
)
def test_a_key_goes_to_nobody_else(pattern: str, url: str) -> None:
    assert key_of(pattern, url) is None


def test_the_first_pattern_that_fits_counts() -> None:
    keys = WorkerKeys.parse([("gpu-1", "one"), ("gpu-*", "many"), ("*", "rest")])
    urls = ("http://gpu-1:1", "http://gpu-2:1", "http://x:1")
    assert [keys.find(WorkerUrl.parse(url)) for url in urls] == ["one", "many", "rest"]


def test_there_may_be_none() -> None:
    assert not WorkerKeys()
    assert WorkerKeys().find(WorkerUrl.parse("http://a:1")) is None


@pytest.mark.parametrize(
    "pattern", ["", "ftp://a", "http://a/path", "a b", "a:0", "a:65536", "a:x", "10.0.0.1/8", "[::1", "[zz]", "a@b:1"]
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidField, match="is no pattern of workers"):
        WorkerKeys.parse([(pattern, "k")])


@pytest.mark.parametrize("key", ["", "a b", "schlüssel", "a\r\nX-Evil: 1"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidField) as caught:
        WorkerKeys.parse([("gpu-1", key)])
    assert caught.value.message == "the key for 'gpu-1' must be visible ASCII characters"


def test_no_key_is_shown() -> None:
    assert "s3cret" not in repr(WorkerKeys.parse([("*", "s3cret")]))
