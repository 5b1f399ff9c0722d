"""The work of a request."""

import math

import pytest

from sglang_diffusion_routing.core.cost import UNKNOWN_COST_MPX_STEPS, USUAL, CostBook, cost_of

pytestmark = pytest.mark.core

IMAGE = 1024 * 1024 / 1e6 * 50 * 2
"""A request that says nothing: 1024 x 1024, 50 steps, guided."""


def fields(**said: object) -> dict[bytes, bytes]:
    """What a request says, as JSON writes it."""
    return {
        name.encode(): (f'"{value}"' if isinstance(value, str) else str(value)).encode() for name, value in said.items()
    }


@pytest.mark.parametrize(
    ("route", "said", "cost"),
    [
        ("images_generations", {}, IMAGE),
        ("images_generations", {"size": "512x256"}, 512 * 256 / 1e6 * 50 * 2),
        ("images_generations", {"size": " 512 X 256 "}, 512 * 256 / 1e6 * 50 * 2),
        ("images_generations", {"size": "512x256", "width": 1000}, 1000 * 256 / 1e6 * 50 * 2),
        ("images_generations", {"size": "512x256", "width": 1000, "height": 2000}, 1000 * 2000 / 1e6 * 50 * 2),
        ("images_generations", {"width": 512}, 512 * 1024 / 1e6 * 50 * 2),
        ("images_generations", {"num_inference_steps": 20}, IMAGE * 20 / 50),
        ("images_generations", {"num_inference_steps": "20"}, IMAGE * 20 / 50),
        ("images_generations", {"n": 4}, IMAGE * 4),
        ("images_generations", {"n": 400}, IMAGE * 10),
        ("images_generations", {"num_frames": 81, "seconds": 4, "fps": 24}, IMAGE),
        ("images_generations", {"guidance_scale": 1.0}, IMAGE / 2),
        ("images_generations", {"guidance_scale": 0}, IMAGE / 2),
        ("images_generations", {"guidance_scale": 4.5}, IMAGE),
        ("images_generations", {"guidance_scale": 3.5, "true_cfg_scale": 1}, IMAGE / 2),
        ("images_generations", {"guidance_scale": 1, "true_cfg_scale": 4}, IMAGE),
        ("images_generations", {"guidance_scale": 1, "true_cfg_scale": "null"}, IMAGE / 2),
        ("videos", {}, 832 * 480 / 1e6 * 50 * 96 * 2),
        ("videos", {"seconds": 2}, 832 * 480 / 1e6 * 50 * 48 * 2),
        ("videos", {"seconds": 2, "fps": 16}, 832 * 480 / 1e6 * 50 * 32 * 2),
        ("videos", {"seconds": 2, "fps": 16, "num_frames": 5}, 832 * 480 / 1e6 * 50 * 5 * 2),
        ("videos", {"n": 2}, 832 * 480 / 1e6 * 50 * 96 * 2 * 2),
        ("videos", {"n": 2, "num_outputs_per_prompt": 3}, 832 * 480 / 1e6 * 50 * 96 * 2 * 3),
        ("rollout", {"num_outputs_per_prompt": 16}, IMAGE * 16),
        ("rollout", {"num_frames": 5, "seconds": 4}, IMAGE * 5),
        ("rollout", {"width": 64, "height": 64, "num_inference_steps": 4}, 64 * 64 / 1e6 * 4 * 2),
        ("meshes", {"num_inference_steps": 5}, 512 * 512 / 1e6 * 5 * 2),
    ],
)
def test_the_work_follows_from_what_is_said_and_from_what_is_usual(
    route: str, said: dict[str, object], cost: float
) -> None:
    assert cost_of(fields(**said), USUAL[route]) == pytest.approx(cost)


@pytest.mark.parametrize(
    "value", [b"null", b"true", b"0", b"-5", b"nan", b"inf", b"1e300", b'""', b'"x"', b"", b"\xff"]
)
@pytest.mark.parametrize("name", [b"width", b"height", b"size", b"num_inference_steps", b"n", b"num_frames"])
def test_a_value_that_is_no_positive_number_counts_as_not_said(name: bytes, value: bytes) -> None:
    assert cost_of({name: value}, USUAL["rollout"]) == pytest.approx(IMAGE)


@pytest.mark.parametrize("size", ["512", "512x", "x512", "1x2x3", "0x512", "axb"])
def test_a_size_that_is_none_leaves_the_usual_one(size: str) -> None:
    expected = 1024 * 512 if size in {"x512", "0x512"} else 512 * 1024 if size == "512x" else 1024 * 1024
    assert cost_of(fields(size=size), USUAL["rollout"]) == pytest.approx(expected / 1e6 * 50 * 2)


def test_nothing_is_known_of_a_route_before_its_first_work() -> None:
    assert CostBook().usual("other", None) == UNKNOWN_COST_MPX_STEPS


def test_usual_work_is_kept_by_route_and_model() -> None:
    book = CostBook()
    book.note("rollout", "a", 10.0)
    book.note("rollout", "b", 20.0)
    book.note("videos", "a", 30.0)
    seen = [book.usual(*key) for key in (("rollout", "a"), ("rollout", "b"), ("videos", "a"))]
    assert seen == pytest.approx([10.0, 20.0, 30.0])


def test_one_piece_of_another_size_moves_the_usual_work_by_a_bounded_part() -> None:
    book = CostBook(memory=32, largest_step=4.0)
    for _ in range(100):
        book.note("rollout", None, 10.0)
    book.note("rollout", None, 1e9)
    assert book.usual("rollout", None) == pytest.approx(10.0 * 4.0 ** (1 / 32))


def test_the_usual_work_follows_a_change_for_good() -> None:
    book = CostBook()
    for cost in [10.0] * 100 + [1000.0] * 400:
        book.note("rollout", None, cost)
    assert math.isclose(book.usual("rollout", None), 1000.0, rel_tol=0.01)


def test_the_book_forgets_what_was_seen_longest_ago_and_no_more_than_it_must() -> None:
    book = CostBook(cap=2)
    for model in ("a", "b", "a", "c"):
        book.note("rollout", model, 10.0)
    assert [book.usual("rollout", model) for model in "abc"] == pytest.approx([10.0, UNKNOWN_COST_MPX_STEPS, 10.0])
