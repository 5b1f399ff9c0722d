import pytest

from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.errors import InvalidField
from support.asgi import request_of

pytestmark = pytest.mark.core


@pytest.mark.parametrize("query", [b"", b"a=1", b"a=1&b=1", b"a=1&A=2"])
def test_different_parameters_may_be_many(query: bytes) -> None:
    each_once(request_of(query=query))


@pytest.mark.parametrize("query", [b"a=1&a=1", b"a=1&b&%61=2"])
def test_a_parameter_that_is_given_twice_is_named(query: bytes) -> None:
    with pytest.raises(InvalidField) as caught:
        each_once(request_of(query=query))
    assert caught.value.facts == {"field": "a"}
