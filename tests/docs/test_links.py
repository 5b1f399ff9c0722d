"""Links between the pages: every file is there, every anchor too, and every page has its place on the site."""

import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *sorted(DOCS.glob("*.md"))]
DRAWINGS = sorted((DOCS / "drawings").glob("*.svg"))
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,4} +(.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = sum(1 for other in found if other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other))
        found.add(f"{slug}-{count}" if slug in found else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_place_in_it(page: Path) -> None:
    lost = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert lost == []


def test_every_page_has_one_place_on_the_site() -> None:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), re.MULTILINE | re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_a_drawing_has_words_for_those_who_cannot_see_it_and_asks_nobody(drawing: Path) -> None:
    text = drawing.read_text(encoding="utf-8")
    tree = ElementTree.fromstring(text)
    names = [element.tag.rpartition("}")[2] for element in tree]
    assert names[:2] == ["title", "desc"]
    assert set(re.findall(r"https?://[^\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert tree.get("class") == "drawing"
    assert tree.get("width") is None, "it takes the width that there is"


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_a_drawing_is_shown_on_a_page(drawing: Path) -> None:
    assert any(f"](drawings/{drawing.name})" in page.read_text(encoding="utf-8") for page in PAGES)


def test_every_alert_is_among_those_of_the_operations_page() -> None:
    alerts = re.findall(r"^### (\w+)$", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    linked = re.findall(r"\]\(metrics\.md#(\w+)\)", (DOCS / "operations.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(alert.lower() for alert in alerts)
