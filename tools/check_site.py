"""Check a built site: every link inside it leads somewhere, and no page loads anything from outside.

Links to other sites are listed and not followed: a build must not fail because somebody else's server does.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src"), ("object", "data"), ("use", "href")}
LOADED_RELATIONS = {"stylesheet", "icon", "shortcut icon", "preload", "manifest", "modulepreload", "prefetch"}
IN_STYLE = re.compile(r"""@import\s+["']([^"']+)|url\(\s*["']?([^"')]+)""")


@dataclass
class Page:
    """What one page links to, loads, and can be linked at."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.page.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.page.loads += [values[name] for element, name in LOADED if element == tag and name in values]
        self.page.loads += [word.split()[0] for word in values.get("srcset", "").split(",") if word.strip()]
        if tag == "link" and "href" in values:
            loads = values.get("rel", "").lower() in LOADED_RELATIONS
            (self.page.loads if loads else self.page.links).append(values["href"])
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])


def read(text: str) -> Page:
    """Give what a page of HTML links to and loads."""
    reader = _Reader()
    reader.feed(text)
    return reader.page


def is_outside(target: str) -> bool:
    """Tell whether a link leaves the site; `//host/path` does, and so does any scheme but data."""
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme not in {"", "data"}


def faults(site: Path) -> Iterator[str]:
    """Tell each link that leads nowhere and each thing that is loaded from outside."""
    pages = {path: read(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for target in page.loads:
            yield from _load(site, path, target)
        for target in page.links:
            if not is_outside(target):
                yield from _link(site, path, target, pages)
    for path in sorted(site.rglob("*.css")):
        for found in IN_STYLE.finditer(path.read_text(encoding="utf-8")):
            target = found[1] or found[2]
            if is_outside(target):
                yield f"{path.relative_to(site)} loads {target} from outside"


def _load(site: Path, path: Path, target: str) -> Iterator[str]:
    name = path.relative_to(site)
    if is_outside(target):
        yield f"{name} loads {target} from outside"
    elif target.startswith("data:"):
        return
    elif not _file(site, path, target).is_file():
        yield f"{name} loads {target}, which is not there"
    elif urlsplit(target).path.endswith(".svg") and not target.startswith("_static/"):
        yield f"{name} shows {target} as an image; a drawing stands in its page, to follow the page's colours"


def _link(site: Path, path: Path, target: str, pages: Mapping[Path, Page]) -> Iterator[str]:
    file = _file(site, path, target)
    anchor = unquote(urlsplit(target).fragment)
    if not file.is_file():
        yield f"{path.relative_to(site)} links to {target}, which is not there"
    elif anchor and file in pages and anchor not in pages[file].anchors:
        yield f"{path.relative_to(site)} links to {target}, and there is no such place on that page"


def _file(site: Path, path: Path, target: str) -> Path:
    place = unquote(urlsplit(target).path)
    if not place:
        return path
    found = (site / place.lstrip("/") if place.startswith("/") else path.parent / place).resolve()
    return found / "index.html" if found.is_dir() else found


def outside(site: Path) -> dict[str, list[str]]:
    """Give every link to another site, with the pages that have it."""
    found: dict[str, list[str]] = {}
    for path in sorted(site.rglob("*.html")):
        for target in read(path.read_text(encoding="utf-8")).links:
            if is_outside(target):
                name = str(path.relative_to(site))
                if name not in found.setdefault(target, []):
                    found[target].append(name)
    return found


def main() -> int:
    """Print each fault, or the links that lead outside; give 1 when there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="folder with the pages")
    site = parser.parse_args().site.resolve()
    if not (site / "index.html").is_file():
        print(f"{site} has no index.html")
        return 1
    found = list(faults(site))
    for fault in found:
        print(fault)
    if found:
        return 1
    print(f"the site is in {site}; nothing is loaded from outside, and these links lead there:")
    for target, pages in sorted(outside(site).items()):
        print(f"  {target}  ({pages[0]}{f' and {len(pages) - 1} more' if len(pages) > 1 else ''})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
