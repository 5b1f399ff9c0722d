import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_diffusion_routing.proxy.peek import form_field, json_members, json_string, named_model

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("document", "value"),
    [
        ('{"model": "m"}', "m"),
        ('{"model":"m"}', "m"),
        ('\n{\t"a" : 1 ,\r\n"model" :\n"m" , "b": [] }', "m"),
        ('{"model": ""}', ""),
        ('{"model": "a\\"b\\\\c\\u00e9\\n"}', 'a"b\\c\u00e9\n'),
        ('{"model": "\u00e9\u6f22"}', "\u00e9\u6f22"),
        ('{"a": "model", "b": "model\\": \\"x"}', None),
        ('{"a": {"model": "x"}}', None),
        ('{"a": [{"model": "x"}], "model": "m"}', "m"),
        ('{"a": ["model", "x"]}', None),
        ('{"model": {"model": "x"}}', None),
        ('{"model": ["x"]}', None),
        ('{"model": null}', None),
        ('{"model": 5, "a": "x"}', None),
        ('{"model": true}', None),
        ('{"model": "m", "model": "n"}', "m"),
        ('{"models": "x", "mode": "y", "xmodel": "z"}', None),
        ('{"data": {"model": "m"}}', "m"),
        ('{"data": {"a": {"model": "x"}}}', None),
        ('{"data": {"data": {"model": "x"}}}', None),
        ('{"a": {"data": {"model": "x"}}}', None),
        ('{"data": [{"model": "x"}]}', None),
        ('{"data": ["model", "x"], "model": "m"}', "m"),
        ('{"data": {"a": 1}, "b": {"model": "x"}}', None),
        ('{"data": {"model": "first"}, "model": "second"}', "first"),
        ('[{"model": "x"}]', None),
        ('["model", "x"]', None),
        ('"model"', None),
        ("5", None),
        ("", None),
        ("   ", None),
        ("not json at all: model", None),
    ],
)
def test_only_a_member_of_the_object_or_of_its_data_counts(document: str, value: str | None) -> None:
    assert json_string(document.encode(), "model") == value


@pytest.mark.parametrize(
    ("document", "value"),
    [
        ('{"id": "a", "video_id": "b", "job_id": "c"}', "a"),
        ('{"job_id": "c", "video_id": "b"}', "b"),
        ('{"job_id": "c"}', "c"),
        ('{"data": {"id": "a"}, "video_id": "b"}', "a"),
        ('{"id": 7, "job_id": "c"}', "c"),
    ],
)
def test_the_name_that_is_asked_for_first_wins(document: str, value: str) -> None:
    assert json_string(document.encode(), "id", "video_id", "job_id") == value


@pytest.mark.parametrize("raw", [b'{"model": "\xff\xfe"}', b'{"model": "\\ud8"}', b'{"model": "\\x"}'])
def test_a_string_that_is_none_names_nothing(raw: bytes) -> None:
    assert not json_string(raw, "model")


NAMES = st.sampled_from(["model", "id", "data", "prompt", 'mo"del', "m\u00f6del", "\\", "{", ""])
TEXTS = st.sampled_from(
    ["model", '"model": "x"', '", "model": "x', "\\", '\\"', "{", "}", "[", ":", ",", "\u6f22"]
) | st.text(max_size=12)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)


def member(document: dict[str, Any], name: str) -> str | None:
    """Find what `json_string` should, with the whole document at hand."""
    for key, value in document.items():
        if key == name and isinstance(value, str):
            return value
        if key == "data" and isinstance(value, dict) and isinstance(value.get(name), str):
            return str(value[name])
    return None


@st.composite
def encoded(draw: st.DrawFn) -> bytes:
    document = draw(OBJECTS)
    indent = draw(st.sampled_from([None, 0, 2]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r\n")]))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), indent=indent, separators=separators)
    return text.encode()


@given(encoded(), st.sampled_from(["model", "id", "data", "prompt"]))
def test_it_finds_what_a_parser_finds(raw: bytes, name: str) -> None:
    assert json_string(raw, name) == member(json.loads(raw), name)


@given(encoded(), st.sampled_from(["model", "id"]))
def test_a_document_that_is_cut_off_gives_the_right_string_or_none(raw: bytes, name: str) -> None:
    whole = json_string(raw, name)
    seen = [json_string(raw[:cut], name) for cut in range(len(raw) + 1)]
    assert set(seen) <= {None, whole}
    # Once it has been seen, more bytes change nothing.
    assert seen == sorted(seen, key=lambda value: value is not None)


@given(st.binary(max_size=100))
def test_noise_never_breaks_it(noise: bytes) -> None:
    json_string(noise, "model")
    json_string(b'{"model": ' + noise, "model")


@pytest.mark.parametrize(
    "filling", [b'\\"', b"\\\\", b'"', b"{", b"[", b'"model"', b'{"data":', b"\\", b"x", b" ", b'"a":', b"\\u0022"]
)
def test_the_longest_look_takes_milliseconds_whatever_is_in_it(filling: bytes) -> None:
    raw = b'{"prompt": "' + filling * (65536 // len(filling))
    began_s = time.process_time()
    json_string(raw, "model")
    json_string(filling * (65536 // len(filling)), "model")
    assert time.process_time() - began_s < 1.0


FORM = b"multipart/form-data; boundary=%b"


def form(boundary: bytes, *parts: tuple[bytes, bytes]) -> bytes:
    """Build a form of (disposition, value) parts."""
    body = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, disposition, value)
        for disposition, value in parts
    )
    return body + b"--%b--\r\n" % boundary


FIELDS = [
    (b'name="prompt"', b'a cat\r\nname="model"\r\n\r\nfake'),
    (b'name="image"; filename="model.png"', b"\x89PNG\r\n\x1a\n" + bytes(50)),
    (b'name="model"; filename="model"', b"a file, not a name"),
    (b'name="xmodel"', b"x"),
    (b'name="model"', "m\u00e9".encode()),
    (b'name="model"', b"second"),
]


@pytest.mark.parametrize("boundary", [b"xyz", b"----WebKitFormBoundary7MA4YWxkTrZu0gW", b"0" * 70])
@pytest.mark.parametrize(
    "content_type", [b"multipart/form-data; boundary=%b", b'Multipart/Form-Data; BOUNDARY="%b"; a=b']
)
def test_a_form_gives_its_text_field(boundary: bytes, content_type: bytes) -> None:
    raw = form(boundary, *FIELDS)
    assert form_field(raw, content_type % boundary, "model") == "m\u00e9"
    assert form_field(raw, content_type % boundary, "image") is None
    assert form_field(raw, content_type % boundary, "absent") is None


def test_a_form_that_is_cut_off_gives_the_right_field_or_none() -> None:
    raw = form(b"xyz", *FIELDS)
    seen = [form_field(raw[:cut], FORM % b"xyz", "model") for cut in range(len(raw) + 1)]
    assert set(seen) == {None, "m\u00e9"}
    assert seen == sorted(seen, key=lambda value: value is not None)


@pytest.mark.parametrize(
    "content_type",
    [b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary=""', b""],
)
def test_a_form_without_a_boundary_gives_nothing(content_type: bytes) -> None:
    assert form_field(form(b"xyz", *FIELDS), content_type, "model") is None


def test_another_boundary_gives_nothing() -> None:
    assert form_field(form(b"xyz", *FIELDS), FORM % b"abc", "model") is None


@given(st.binary(max_size=200), st.binary(max_size=30))
def test_a_noisy_form_never_breaks_it(noise: bytes, boundary: bytes) -> None:
    form_field(noise, FORM % boundary, "model")


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        (b"application/json", b'{"model": "m"}'),
        (b"application/json; charset=utf-8", b'{"model": "m"}'),
        (b"", b'{"model": "m"}'),
        (FORM % b"xyz", form(b"xyz", (b'name="model"', b"m"))),
    ],
)
def test_the_model_is_named_in_json_or_in_a_form(content_type: bytes, raw: bytes) -> None:
    assert named_model(raw, content_type) == "m"


@pytest.mark.parametrize(
    ("document", "members"),
    [
        (b'{"a": 1, "b": "x,y}", "c": [1, {"a": 2}], "d": 3}', {b"a": b"1", b"b": b'"x,y}"', b"c": b'[1, {"a": 2}]'}),
        (b'{ "a" : -1.5e3 , "b" : null }', {b"a": b"-1.5e3", b"b": b"null"}),
        (b'{"x": {"a": 1}, "y": ["a", 2]}', {}),
        (b'{"a": 1, "a": 2}', {b"a": b"2"}),
        (b'{"a": 12', {}),
        (b'{"a": 12,', {b"a": b"12"}),
        (b'{"a": "b\\"", "b": "cut', {b"a": b'"b\\""'}),
        (b'{"a": [1, 2', {}),
        (b'["a", 1]', {}),
        (b'}}{"a":1}', {}),
        (b"", {}),
    ],
)
def test_members_are_given_as_they_are_written_when_they_are_whole(
    document: bytes, members: dict[bytes, bytes]
) -> None:
    assert dict(json_members(document, (b"a", b"b", b"c"))) == members


@given(
    members=st.dictionaries(
        st.sampled_from(["a", "b", "other", 'q"']),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            max_leaves=6,
        ),
    ),
    indent=st.sampled_from([None, 1]),
    cut=st.integers(0, 200),
)
def test_whole_members_are_those_that_a_parser_finds(members: dict[str, Any], indent: int | None, cut: int) -> None:
    document = json.dumps(members, indent=indent).encode()
    wanted = {name.encode(): value for name, value in members.items() if name in {"a", "b"}}
    found = {name: json.loads(value) for name, value in json_members(document, (b"a", b"b"))}
    early = {name: json.loads(value) for name, value in json_members(document[:cut], (b"a", b"b"))}
    assert found == wanted
    assert all(wanted[name] == value for name, value in early.items())
