"""Whether a request's body fixes what is made of it, so that two workers with the same weights make the same."""

from __future__ import annotations

import json

from sglang_diffusion_routing.proxy.peek import form_field


def names_a_seed(body: bytes, content_type: bytes) -> bool:
    """Tell whether a whole body, JSON or a multipart form, has a `seed`: a whole number, or one for each output.

    It takes milliseconds for a body of a mebibyte.
    """
    if b"multipart/form-data" in content_type.lower():
        return (form_field(body, content_type, "seed") or "").strip().isdecimal()
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return False
    seed = members.get("seed") if isinstance(members, dict) else None
    return _is_whole(seed) or (isinstance(seed, list) and bool(seed) and all(map(_is_whole, seed)))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
