"""How Sphinx makes the site from these pages (`make site`)."""

import html
import re
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

import sglang_diffusion_routing

HERE = Path(__file__).parent
PICTURES = HERE.parent / "build" / "pictures"
"""What tools/screenshots.py has made, if it could: pictures are taken anew for each site, and none is kept."""

project = "sglang-diffusion-routing"
project_copyright = "sglang-diffusion-routing contributors, MIT licence"
release = sglang_diffusion_routing.__version__

extensions = ["myst_parser"]
exclude_patterns = ["drawings", "_site"]
# Anchors are those that GitHub makes, so the same link works here and there.
myst_heading_anchors = 4
# A block that names no language is what a program has printed.
highlight_language = "none"

html_theme = "furo"
html_title = f"sglang-d-router {release}"
html_favicon = "../src/sglang_diffusion_routing/dashboard/static/icon.svg"
html_static_path = ["_site", *([str(PICTURES)] if PICTURES.is_dir() else [])]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


class DrawingsInThePage(SphinxPostTransform):
    """Put drawings into the page itself: they follow its colours, and their words can be found and copied."""

    default_priority = 5
    formats: ClassVar[tuple[str, ...]] = ("html",)

    def run(self, **_kwargs: object) -> None:
        """Replace each image of a drawing by the drawing."""
        for image in list(self.document.findall(nodes.image)):
            if not image["uri"].startswith("drawings/"):
                continue
            drawing = (HERE / image["uri"]).read_text(encoding="utf-8")
            figure = nodes.raw("", f'<figure class="drawing">{drawing}</figure>', format="html")
            alone = isinstance(image.parent, nodes.paragraph) and len(image.parent) == 1
            (image.parent if alone else image).replace_self(figure)


class PicturesWhereThereAreSome(SphinxPostTransform):
    """Put a picture where a page has `<!-- picture: NAME, WHAT IT SHOWS -->`.

    It is NAME.png, or NAME-light.png on light pages and NAME-dark.png on dark ones.
    """

    default_priority = 5
    formats: ClassVar[tuple[str, ...]] = ("html",)

    def run(self, **_kwargs: object) -> None:
        """Replace each such comment; without pictures, by nothing."""
        for raw in list(self.document.findall(nodes.raw)):
            named = re.fullmatch(r"<!-- picture: ([\w-]+), (.+) -->\s*", raw.astext(), re.DOTALL)
            if named is None:
                continue
            words = html.escape(" ".join(named[2].split()))
            files = {"": f"{named[1]}.png", "only-light": f"{named[1]}-light.png", "only-dark": f"{named[1]}-dark.png"}
            shown = "".join(
                f'<img class="{side}" src="_static/{file}" alt="{words}">'
                for side, file in files.items()
                if (PICTURES / file).is_file()
            )
            if shown:
                raw.replace_self(nodes.raw("", f'<figure class="picture">{shown}</figure>', format="html"))
            else:
                raw.parent.remove(raw)


class TitlesForFileNames(SphinxPostTransform):
    """Show a link whose words are a page's file name, as they are in the repository, under the page's title."""

    # After the links are resolved (Sphinx's ReferencesResolver has 10).
    default_priority = 20

    def run(self, **_kwargs: object) -> None:
        """Replace the words of each such link."""
        for link in self.document.findall(nodes.reference):
            named = re.fullmatch(r"(?:docs/)?([\w-]+)\.md", link.astext())
            if link.get("internal") and named and named[1] in self.env.titles:
                link.children = [nodes.Text(self.env.titles[named[1]].astext())]


def setup(app: Sphinx) -> None:
    """Take part in the build."""
    app.add_post_transform(DrawingsInThePage)
    app.add_post_transform(PicturesWhereThereAreSome)
    app.add_post_transform(TitlesForFileNames)
