import pytest

from sglang_diffusion_routing.api.plane import _plane
from support.asgi import request_of

pytestmark = pytest.mark.core


def test_a_route_gets_the_control_plane_of_its_application() -> None:
    plane = object()
    assert _plane(request_of(plane=plane)) is plane
