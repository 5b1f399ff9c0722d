"""Tests of work whose images are shown: what is looked at, and that nothing about it changes."""

import pytest

from proxy.steps import started
from proxy.world import World, get, post, reply, serve, sized, world
from sglang_diffusion_routing.core.work import Lease, Result

pytestmark = pytest.mark.loopback

IMAGES = b"/v1/images/generations"


class Copy:
    """What one reply has shown."""

    def __init__(self, lease: Lease, weights: str | None, *, is_chunked: bool) -> None:
        self.told = (lease.worker.worker_id, lease.spec.route, weights, is_chunked)
        self.body = b""
        self.ends: list[bool] = []

    def take(self, span: bytes) -> None:
        self.body += span

    def end(self, *, whole: bool) -> None:
        self.ends.append(whole)


class Album:
    """A gallery that keeps every reply that it is shown, unless it is closed."""

    def __init__(self) -> None:
        self.copies: list[Copy] = []
        self.is_open = True

    def collect(self, lease: Lease, weights: str | None, *, is_chunked: bool) -> Copy | None:
        copy = Copy(lease, weights, is_chunked=is_chunked)
        self.copies.append(copy)
        return copy if self.is_open else None


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (IMAGES, "images_generations"),
        (b"/generate", "images_generations"),
        (b"/v1/images/edits", "images_edits"),
        (b"/rollout/generate", "rollout"),
        (b"/v1/diffusion/generate", "diffusion"),
    ],
)
async def test_a_reply_with_images_is_seen_as_the_client_gets_it(path: bytes, route: str) -> None:
    album = Album()
    async with world(gallery=album) as one:
        client, peer, _ = await started(one, post(path))
        body = bytes(range(256)) * 4096
        await peer.send(sized(body)[:100000], sized(body)[100000:])
        status, fields, got = await reply(client)
        assert (status, got == body) == (200, True)
        assert sorted(fields) == [
            b"content-length",
            b"x-request-id",
            b"x-sglang-router-queue-ms",
            b"x-sglang-router-weight-version",
            b"x-sglang-router-worker",
        ]
        await one.released((0, Result.OK, 200))
        (copy,) = album.copies
        assert copy.told == (one.workers[0].worker_id, route, "0", False)
        assert (copy.body, copy.ends) == (body, [True])


async def test_replies_without_images_are_not_looked_at() -> None:
    album = Album()
    async with world(gallery=album) as one:
        for request, answer in [
            (post(IMAGES), sized(b"no", b"400 Bad Request")),
            (get(b"/stats"), sized()),
            (post(b"/anything"), sized()),
        ]:
            client, peer, _ = await started(one, request)
            await peer.send(answer)
            await reply(client)
            await peer.drop()
    assert album.copies == []


async def test_a_gallery_that_is_full_changes_nothing() -> None:
    album = Album()
    album.is_open = False
    async with world(gallery=album) as one:
        client, peer, _ = await started(one, post(IMAGES))
        await peer.send(sized(b"image"))
        assert (await reply(client))[2] == b"image"
        await one.released((0, Result.OK, 200))
    assert [(copy.body, copy.ends) for copy in album.copies] == [(b"", [])]


async def test_a_reply_that_breaks_off_is_not_whole() -> None:
    album = Album()
    async with world(gallery=album) as one:
        client, peer, _ = await started(one, post(IMAGES))
        await peer.send(sized(b"image")[:-2])
        await client.read_head()
        await peer.drop()
        assert await client.reader.read(3) == b"ima"
        await one.released((0, Result.DIED, 200))
    assert [(copy.body, copy.ends) for copy in album.copies] == [(b"ima", [False])]


async def test_it_is_told_that_a_body_comes_in_chunks() -> None:
    album = Album()
    async with world(gallery=album) as one:
        client, peer, _ = await started(one, post(IMAGES))
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n")
        await client.read_head()
        assert await client.read(15) == b"5\r\nimage\r\n0\r\n\r\n"
        await one.released((0, Result.OK, 200))
    assert [(copy.told[3], copy.body) for copy in album.copies] == [(True, b"5\r\nimage\r\n0\r\n\r\n")]


async def test_of_weights_that_changed_in_between_nobody_can_say_which_they_were() -> None:
    album = Album()
    async with world(gallery=album) as one:
        client, peer, _ = await started(one, post(IMAGES))
        one.load(one.workers[0], "step-1")
        await peer.send(sized())
        await reply(client)
    assert [copy.told[2] for copy in album.copies] == [None]


async def test_what_nobody_waits_for_is_not_shown() -> None:
    album = Album()
    async with world(gallery=album) as one:
        client, peer, _ = await started(one, post(IMAGES))
        await client.drop()
        await peer.send(sized())
        await one.released((0, Result.OK, 200))
    assert album.copies == []


async def test_without_a_gallery_work_is_what_it_always_is(one: World) -> None:
    client = await one.ask(post(IMAGES))
    peer = await one.accept()
    assert [type(lease.holder).__name__ for lease in one.fleet.scheduler.leases_of(one.workers[0].worker_id)] == [
        "Work"
    ]
    await serve(peer, sized())
    await reply(client)
