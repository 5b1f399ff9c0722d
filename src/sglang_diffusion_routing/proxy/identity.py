"""What makes two requests the same to a model: prompt and seed, as a digest."""

from __future__ import annotations

import hashlib
import json

from sglang_diffusion_routing.proxy.peek import form_boundary, form_fields, json_members
from sglang_diffusion_routing.proxy.shape import LOOK_BYTES

_NAMES = (b"prompt", b"seed")


def digest_of(body: bytes, content_type: bytes, *, whole: bool) -> bytes:
    """Give SHA-256 of `[prompt,seed]` as JSON without blanks, ASCII only; of the first look when they are not in there.

    A seed that is left open is null, so that requests which leave it open are the same, too.

    Args:
        body: its first bytes, at most `LOOK_BYTES` of which are looked at.
        content_type: the request's, empty when it states none.
        whole: whether that is all of it.

    Returns:
        Nothing when there is no body.
    """
    if not body:
        return b""
    look, whole = body[:LOOK_BYTES], whole and len(body) < LOOK_BYTES
    boundary = form_boundary(content_type)
    found = _in_json(look) if boundary is None else _in_form(look, content_type)
    if "prompt" in found and ("seed" in found or whole):
        same = json.dumps([found["prompt"], found.get("seed")], separators=(",", ":"))
        return hashlib.sha256(same.encode()).digest()
    # A form's boundary is another one each time.
    return hashlib.sha256(look if boundary is None else look.replace(boundary, b"")).digest()


def _in_json(look: bytes) -> dict[str, object]:
    try:
        return {name.decode(): json.loads(value) for name, value in json_members(look, _NAMES)}
    except ValueError:
        return {}


def _in_form(look: bytes, content_type: bytes) -> dict[str, object]:
    texts = {name.decode(): value.decode("utf-8", "replace") for name, value in form_fields(look, content_type, _NAMES)}
    found: dict[str, object] = dict(texts)
    seed = texts.get("seed", "").strip()
    if seed.removeprefix("-").isdecimal():
        # As a JSON body has it.
        found["seed"] = int(seed)
    return found
