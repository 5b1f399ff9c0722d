"""Tests of the check of the built site."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.core

Load = Callable[[str], ModuleType]
INDEX = """<link rel="stylesheet" href="site.css"><link rel="next" href="more.html">
<a href="more.html#here">more</a> <a href="#top">up</a> <a id="top" href="https://example.org/">out</a>"""
MORE = '<h2 id="here">Here</h2><img src="data:image/png;base64,AA=="><a href=".">home</a>'


@pytest.fixture
def check(load: Load, tmp_path: Path) -> ModuleType:
    (tmp_path / "index.html").write_text(INDEX)
    (tmp_path / "more.html").write_text(MORE)
    (tmp_path / "site.css").write_text("body { background: url(data:image/png;base64,AA==) }")
    return load("check_site")


def test_a_site_whose_links_all_lead_somewhere_has_no_fault(check: ModuleType, tmp_path: Path) -> None:
    assert list(check.faults(tmp_path)) == []
    assert check.outside(tmp_path) == {"https://example.org/": ["index.html"]}


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ('<a href="gone.html">x</a>', "more.html links to gone.html, which is not there"),
        ('<a href="index.html#no">x</a>', "more.html links to index.html#no, and there is no such place on that page"),
        ('<a href="#no">x</a>', "more.html links to #no, and there is no such place on that page"),
        ('<script src="https://cdn.example/x.js"></script>', "more.html loads https://cdn.example/x.js from outside"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "more.html loads //cdn.example/x.css from outside"),
        ('<img src="gone.png">', "more.html loads gone.png, which is not there"),
        ('<img srcset="gone.png 2x">', "more.html loads gone.png, which is not there"),
    ],
)
def test_what_leads_nowhere_or_is_loaded_from_outside_is_told(
    check: ModuleType, tmp_path: Path, added: str, fault: str
) -> None:
    (tmp_path / "more.html").write_text(MORE + added)
    assert list(check.faults(tmp_path)) == [fault]


@pytest.mark.parametrize(
    "style", ["@import 'https://fonts.example/x';", "a{background:url( 'https://fonts.example/x')}"]
)
def test_a_style_that_loads_from_outside_is_told(check: ModuleType, tmp_path: Path, style: str) -> None:
    (tmp_path / "site.css").write_text(style)
    assert list(check.faults(tmp_path)) == ["site.css loads https://fonts.example/x from outside"]


def test_a_drawing_beside_its_page_is_told(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "life.svg").write_text("<svg/>")
    (tmp_path / "more.html").write_text(MORE + '<img src="_images/life.svg">')
    told = "more.html shows _images/life.svg as an image; a drawing stands in its page, to follow the page's colours"
    assert list(check.faults(tmp_path)) == [told]


def test_a_folder_without_pages_is_no_site(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check_site.py", str(tmp_path / "nothing")])
    assert check.main() == 1
    assert capsys.readouterr().out == f"{tmp_path}/nothing has no index.html\n"
