import json

import pytest

from sglang_diffusion_routing.api.registration import Named, address_of, named_workers, whole_set
from sglang_diffusion_routing.control.membership import Wanted
from sglang_diffusion_routing.errors import InvalidField
from sglang_diffusion_routing.schemas import WorkerAddress
from support.asgi import request_of

pytestmark = pytest.mark.core
NOTHING = WorkerAddress()


async def named(body: object, query: WorkerAddress = NOTHING) -> Named:
    return await named_workers(request_of(body=[json.dumps(body).encode()]), query)


async def test_one_worker_is_named_in_the_query_or_in_the_body_or_alike_in_both() -> None:
    for request, query in [
        (request_of(body=[b'{"url":"u"}']), NOTHING),
        (request_of(), WorkerAddress(worker_url="u")),
        (request_of(body=[b'{"worker_url":"u"}']), WorkerAddress(url="u")),
    ]:
        assert await address_of(request, query) == "u"


async def test_one_worker_has_the_labels_and_the_cap_of_the_body() -> None:
    assert await named({"url": "u"}) == Named([Wanted("u")], several=False)
    given = {"labels": {"b": "2", "a": "1"}, "max_concurrency": 0}
    wanted = Wanted("u", (("a", "1"), ("b", "2")), 0)
    assert await named({"url": "u", **given}) == Named([wanted], several=False)
    assert await named(given, WorkerAddress(url="u")) == Named([wanted], several=False)


async def test_a_worker_of_sglangs_router_is_regular_or_none_of_ours() -> None:
    assert await named({"url": "u", "worker_type": "regular"}) == Named([Wanted("u")], several=False)
    with pytest.raises(InvalidField, match="worker_type"):
        await named({"url": "u", "worker_type": "prefill"})


async def test_a_list_of_urls_shares_labels_and_cap_and_workers_have_their_own() -> None:
    assert await named({"urls": ["a", "b"], "labels": {}, "max_concurrency": 2}) == Named(
        [Wanted("a", (), 2), Wanted("b", (), 2)], several=True
    )
    workers = [{"url": "a", "labels": {"k": "v"}}, {"url": "b", "max_concurrency": 1}]
    assert await named({"workers": workers}) == Named(
        [Wanted("a", (("k", "v"),)), Wanted("b", max_concurrency=1)], several=True
    )
    assert await whole_set(request_of(body=[json.dumps({"workers": workers}).encode()])) == [
        Wanted("a", (("k", "v"),)),
        Wanted("b", max_concurrency=1),
    ]


@pytest.mark.parametrize(
    ("query", "body", "message"),
    [
        (NOTHING, {}, "'url' is required, in the query or in a JSON body"),
        (NOTHING, {"labels": {}}, "'url' is required, in the query or in a JSON body"),
        (WorkerAddress(url="a"), {"url": "b"}, "'url' names different workers in the query and in the body"),
        (WorkerAddress(url="a"), {"urls": ["a"]}, "'url' and 'urls' do not go together"),
        (NOTHING, {"url": "a", "workers": []}, "'url' and 'workers' do not go together"),
        (NOTHING, {"urls": ["a"], "workers": []}, "'urls' and 'workers' do not go together"),
        (NOTHING, {"workers": []}, "'workers' must name a worker"),
    ],
)
async def test_what_names_nothing_or_in_two_ways_is_refused(query: WorkerAddress, body: object, message: str) -> None:
    with pytest.raises(InvalidField) as caught:
        await named(body, query)
    assert caught.value.message == message
