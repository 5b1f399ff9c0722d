import asyncio
import json

import pytest

from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.raw_worker import Handler, read_request, reply, serving
from support.running import RunningRouter, running

Item = dict[str, object]


def keeper(items: list[Item], asked: list[str] | None = None) -> Handler:
    """A worker that has these videos and lists them as SGLang does."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await read_request(reader))[0].split(b" ")[1].decode()
        path, _, query = target.partition("?")
        if asked is not None:
            asked.append(target)
        if path == "/v1/videos":
            writer.write(reply(200, json.dumps(page(dict(part.split("=") for part in query.split("&")))).encode()))
        elif path.startswith("/v1/videos/"):
            found = [item for item in items if item["id"] == path.removeprefix("/v1/videos/")]
            writer.write(reply(200, json.dumps(found[0]).encode()) if found else reply(404, b'{"detail":"?"}'))
        else:
            writer.write(reply(200, b"{}"))

    def page(query: dict[str, str]) -> Item:
        newest_first = query["order"] == "desc"
        ordered = sorted(items, key=lambda item: int(str(item["created_at"])), reverse=newest_first)
        if "after" in query:
            ordered = ordered[[item["id"] for item in ordered].index(query["after"]) + 1 :]
        limit = int(query["limit"])
        return {"object": "list", "data": ordered[:limit], "has_more": len(ordered) > limit}

    return handle


def video(name: str, at: int) -> Item:
    return {"id": name, "object": "video", "status": "completed", "created_at": at}


async def names(router: RunningRouter, query: str) -> tuple[list[str], bool]:
    status, body = await router.get(f"/v1/videos?{query}")
    assert status == 200, body
    found = [row["id"] for row in body["data"]]
    assert (body["first_id"], body["last_id"]) == ((found[0], found[-1]) if found else (None, None))
    return found, body["has_more"]


async def test_lists_are_merged_newest_first_and_paged() -> None:
    first = [video("a1", 10), video("a3", 30), video("a5", 50)]
    second = [video("b2", 20), video("b3", 30), video("b4", 40)]
    async with serving(keeper(first)) as a, serving(keeper(second)) as b, running(str(a), str(b)) as router:
        assert await names(router, "") == (["a5", "b4", "a3", "b3", "b2", "a1"], False)
        assert await names(router, "limit=2") == (["a5", "b4"], True)
        assert await names(router, "limit=2&after=b4") == (["a3", "b3"], True)
        assert await names(router, "limit=2&after=b3") == (["b2", "a1"], False)
        assert await names(router, "after=a1") == ([], False)
        assert await names(router, "order=asc&limit=3") == (["a1", "b2", "a3"], True)
        assert await names(router, "order=asc&after=a3") == (["b3", "b4", "a5"], False)


async def test_a_cursor_far_down_is_reached_page_by_page() -> None:
    many = [video(f"m{n:03}", 1000 + n) for n in range(250)]
    asked: list[str] = []
    async with (
        serving(keeper(many, asked)) as a,
        serving(keeper([video("old", 1)])) as b,
        running(str(a), str(b)) as router,
    ):
        assert await names(router, "limit=2&after=m001") == (["m000", "old"], False)
        asked.clear()
        assert await names(router, "limit=1&order=asc&after=old") == (["m000"], True)
        assert [target for target in asked if "limit" in target] == ["/v1/videos?limit=100&order=asc"]


async def test_an_item_comes_as_its_worker_gave_it(video_worker: SimInThread) -> None:
    async with running(video_worker.url) as router:
        _, made = await router.post("/v1/videos", {"prompt": "a boat", "size": "64x64", "num_inference_steps": 1})
        _, shown = await router.get(f"/v1/videos/{made['id']}")
        _, listed = await router.get("/v1/videos")
        row = next(row for row in listed["data"] if row["id"] == made["id"])
        assert sorted(row) == sorted(shown)


async def test_a_worker_that_does_not_answer_is_left_out() -> None:
    async def silent_on_lists(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        if b"/v1/videos" in head:
            await asyncio.Event().wait()
        writer.write(reply(200, b"{}"))

    async with (
        serving(silent_on_lists) as a,
        serving(keeper([video("b", 1)])) as b,
        running(str(a), str(b), probe_timeout_s=0.3) as router,
    ):
        assert await names(router, "") == (["b"], False)


async def test_no_worker_is_503_and_no_answer_is_502(empty: RunningRouter) -> None:
    status, error = await empty.get("/v1/videos")
    assert (status, error["code"]) == (503, "no_eligible_worker")

    async def no_lists(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        writer.write(reply(404 if b"/v1/" in head else 200, b"{}"))

    async with serving(no_lists) as url:
        await empty.post("/workers", {"url": str(url)})
        status, error = await empty.get("/v1/meshes")
        assert (status, error["code"], error["asked"]) == (502, "no_worker_answered", 1)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("limit=2.5", "limit"),
        ("order=newest", "order"),
        ("after=", "after"),
        ("after=" + "x" * 513, "after"),
        ("after=nobody", "after"),
        ("page=2", "page"),
        ("limit=2&limit=3", "limit"),
    ],
)
async def test_a_wrong_query_is_refused(shared_router: RunningRouter, query: str, field: str) -> None:
    status, error = await shared_router.get(f"/v1/videos?{query}")
    assert (status, error["code"], error["field"]) == (400, "invalid_field", field)
