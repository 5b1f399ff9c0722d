"""Tests of the last images, kept small: how much is looked at, and that nothing grows."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable

import pytest
from PIL import Image

from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.runtime.gallery import AT_ONCE, GAP_S, MAX_REPLY_BYTES, PATIENCE_S, Collected, Gallery
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core


def reply(colour: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (16, 8), colour).save(written, "PNG")
    return json.dumps({"data": [{"b64_json": base64.b64encode(written.getvalue()).decode()}]}).encode()


@pytest.fixture
async def fleet() -> RecordingFleet:
    return RecordingFleet()


@pytest.fixture
async def gallery(fleet: RecordingFleet) -> AsyncIterator[Gallery]:
    gallery = Gallery(3, fleet._read_clock)
    yield gallery
    await gallery.aclose()


@pytest.fixture
async def lease(fleet: RecordingFleet) -> Lease:
    return fleet.adopt(fleet.join("http://a:1"), WorkSpec(route="images_generations"))


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10.0):
        while not holds():  # noqa: ASYNC110 - what is waited for is plain state, which sets no event
            await asyncio.sleep(0.001)


def counted(gallery: Gallery) -> dict[str, int]:
    return {outcome: count for outcome, count in gallery.outcomes.items() if count}


async def show(gallery: Gallery, fleet: RecordingFleet, lease: Lease, body: bytes, *, is_chunked: bool = False) -> None:
    """Let one reply pass, late enough, and wait until it has been read."""
    fleet.instant_s += 100.0
    before = sum(gallery.outcomes.values())
    copy = gallery.collect(lease, "step-1", is_chunked=is_chunked)
    assert copy is not None
    copy.take(body[:10])
    copy.take(body[10:])
    copy.end(whole=True)
    await until(lambda: sum(gallery.outcomes.values()) > before)


async def test_an_image_that_was_made_is_kept_with_what_is_known_of_it(
    gallery: Gallery, fleet: RecordingFleet, lease: Lease
) -> None:
    await show(gallery, fleet, lease, reply())
    (kept,) = gallery.after(0)
    assert (kept.sequence, kept.at_s, kept.worker, kept.route, kept.weights, kept.piece) == (
        1,
        fleet.instant_s,
        "http://a:1",
        "images_generations",
        "step-1",
        lease.lease_id,
    )
    assert (kept.picture.width, kept.picture.height) == (16, 8)
    assert len(kept.name) == 16
    assert gallery.find(kept.name) is kept
    assert gallery.find("other") is None
    assert counted(gallery) == {"made": 1}


async def test_the_oldest_gives_way(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    for _ in range(5):
        await show(gallery, fleet, lease, reply())
    assert [kept.sequence for kept in gallery.after(0)] == [3, 4, 5]
    assert [kept.sequence for kept in gallery.after(4)] == [5]
    assert gallery.after(5) == []


async def test_chunks_are_taken_out_of_their_frames(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    body = reply()
    framed = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (20, body[:20], len(body) - 20, body[20:])
    await show(gallery, fleet, lease, framed, is_chunked=True)
    assert counted(gallery) == {"made": 1}


async def test_what_has_no_image_and_what_is_malformed_is_counted(
    gallery: Gallery, fleet: RecordingFleet, lease: Lease
) -> None:
    await show(gallery, fleet, lease, b'{"data": [{"url": "/u"}]}')
    await show(gallery, fleet, lease, b'{"data": [{"b64_json": "????"}]}')
    assert counted(gallery) == {"none": 1, "unreadable": 1}
    await show(gallery, fleet, lease, reply())
    assert counted(gallery) == {"none": 1, "unreadable": 1, "made": 1}


async def test_only_so_many_are_collected_at_once(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    copies: list[Collected | None] = []
    for _ in range(AT_ONCE + 2):
        fleet.instant_s += GAP_S
        copies.append(gallery.collect(lease, None, is_chunked=False))
    assert [copy is not None for copy in copies] == [True] * AT_ONCE + [False] * 2
    assert counted(gallery) == {"missed": 2}
    assert copies[0] is not None
    copies[0].end(whole=False)
    assert gallery.collect(lease, None, is_chunked=False) is not None


async def test_replies_that_follow_closely_are_let_pass(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    assert gallery.collect(lease, None, is_chunked=False) is not None
    fleet.instant_s += 0.9 * GAP_S
    assert gallery.collect(lease, None, is_chunked=False) is None
    fleet.instant_s += 0.2 * GAP_S
    assert gallery.collect(lease, None, is_chunked=False) is not None


async def test_after_one_that_took_long_there_is_a_longer_pause(fleet: RecordingFleet, lease: Lease) -> None:
    ticks = iter([0.0, 10.0, 12.0, 29.9, 30.1])
    gallery = Gallery(3, lambda: next(ticks))
    copy = gallery.collect(lease, None, is_chunked=False)
    assert copy is not None
    copy.take(reply())
    copy.end(whole=True)
    await until(lambda: counted(gallery))
    assert gallery.collect(lease, None, is_chunked=False) is None
    assert gallery.collect(lease, None, is_chunked=False) is not None
    await gallery.aclose()


async def test_no_more_is_held_than_the_beginning(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    copy = gallery.collect(lease, None, is_chunked=False)
    assert copy is not None
    span = b"x" * 2**20
    for _ in range(MAX_REPLY_BYTES // len(span) - 1):
        copy.take(span)
    assert counted(gallery) == {}
    copy.take(span)
    copy.take(b"y" * 2**20)
    assert sum(map(len, copy._spans)) <= MAX_REPLY_BYTES
    copy.end(whole=True)
    await until(lambda: counted(gallery) == {"none": 1})
    assert copy._spans == []


async def test_a_client_that_reads_slowly_gives_way(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    slow = [gallery.collect(lease, None, is_chunked=False)]
    fleet.instant_s += GAP_S
    slow.append(gallery.collect(lease, None, is_chunked=False))
    fleet.instant_s += PATIENCE_S
    assert gallery.collect(lease, None, is_chunked=False) is not None
    assert slow[0] is not None
    slow[0].take(b"late")
    slow[0].end(whole=True)
    assert slow[0]._spans == []
    assert counted(gallery) == {"missed": 1}


async def test_what_broke_off_is_not_read(gallery: Gallery, fleet: RecordingFleet, lease: Lease) -> None:
    copy = gallery.collect(lease, None, is_chunked=False)
    assert copy is not None
    copy.take(reply())
    copy.end(whole=False)
    assert (copy._spans, counted(gallery)) == ([], {"missed": 1})
