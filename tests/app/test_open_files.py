import resource

import pytest
import structlog

from sglang_diffusion_routing.app.open_files import raise_open_files_limit

pytestmark = pytest.mark.core


class Limits:
    """Stands in for the process's own limit, which a test must not change."""

    def __init__(self, soft: int, hard: int, *, refuses: bool = False) -> None:
        self.now = (soft, hard)
        self.refuses = refuses

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        if self.refuses:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "warned"),
    [
        (1024, 1_048_576, 1_048_576, []),
        (1024, resource.RLIM_INFINITY, 2512, []),
        (5000, resource.RLIM_INFINITY, 5000, []),
        (1024, 2000, 2000, ["open_files_limit_low"]),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, []),
    ],
)
def test_the_limit_is_raised_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, warned: list[str]
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    with structlog.testing.capture_logs() as lines:
        raise_open_files_limit(max_client_connections=1000)
    assert (limits.now[0], [line["event"] for line in lines]) == (raised, warned)


def test_a_limit_that_cannot_be_raised_is_told_and_lived_with(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(1024, 4096, refuses=True)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    with structlog.testing.capture_logs() as lines:
        raise_open_files_limit(max_client_connections=1000)
    assert [line["event"] for line in lines] == ["open_files_limit_not_raised", "open_files_limit_low"]
