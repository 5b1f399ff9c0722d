"""What the first bytes of a request's body say about the size of its work."""

from __future__ import annotations

import re

from sglang_diffusion_routing.proxy.peek import form_fields

LOOK_BYTES = 8192
"""How much of a body is looked at; a prompt in front of the rest has 2 KiB at most."""

Fields = tuple[tuple[bytes, bytes], ...]
"""Names and values as they are written. Many requests have the same ones, so they can be a key."""

_NAMES = (
    b"width",
    b"height",
    b"size",
    b"num_inference_steps",
    b"num_frames",
    b"seconds",
    b"fps",
    b"n",
    b"num_outputs_per_prompt",
    b"guidance_scale",
    b"true_cfg_scale",
)
# A quote in a JSON string has a backslash before it, so one without that, and a name and a colon behind it, is a key.
# What follows the value is asked for because the body may go on where the prefix ends.
_VALUE_MAX_BYTES = 24
_MEMBER = re.compile(
    rb'"(?<!\\")(%b)"\s*+:\s*+("[^"\\]{0,%d}+"|[-+.0-9A-Z_a-z]{1,%d}+)(?=[\s,}])'
    % (b"|".join(_NAMES), _VALUE_MAX_BYTES, _VALUE_MAX_BYTES)
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def json_fields(prefix: bytes) -> Fields:
    """Give the members of a JSON object, of which `prefix` is the beginning, that say how large its work is.

    Members of objects within it do not count. Values are numbers, words, or strings with their quotes.
    """
    found = _MEMBER.findall(prefix)
    if not found or (prefix.startswith(b"{") and prefix.find(b"{", 1) < 0):
        return tuple(found)
    return tuple(_of_the_object_itself(prefix))


def _of_the_object_itself(prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Do the same where some members may be another object's; a brace within a prompt leads here too."""
    found: list[tuple[bytes, bytes]] = []
    depth = seen = 0
    for match in _MEMBER.finditer(prefix):
        between = _STRING.sub(b"", prefix[seen : match.start()])
        depth += between.count(b"{") + between.count(b"[") - between.count(b"}") - between.count(b"]")
        seen = match.end()
        if depth == 1:
            found.append((match[1], match[2]))
    return found


def fields_of(prefix: bytes, content_type: bytes | None, *, whole: bool) -> Fields | None:
    """Give what a body says about the size of its work; None when that must be behind the end of `prefix`.

    Args:
        prefix: its first bytes, at most `LOOK_BYTES` of which are looked at.
        content_type: the request's.
        whole: whether `prefix` is all of it.
    """
    if len(prefix) > LOOK_BYTES:
        prefix, whole = prefix[:LOOK_BYTES], False
    if content_type is not None and b"multipart/form-data" in content_type.lower():
        members = form_fields(prefix, content_type, _NAMES)
        found = tuple(member for member in members if len(member[1]) <= _VALUE_MAX_BYTES)
    else:
        found = json_fields(prefix)
    return found if found or whole else None
