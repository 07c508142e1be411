"""From a matplotlib figure to inline SVG: small, in the page's colors, with text to read aloud."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

from fewshot_bench.analysis.formats.style import INK, Look, color_variables

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
MARK = "fsb"
# Inches of a figure over the whole width of the page, on a desktop and on a phone.
Page = Literal["wide", "narrow"]
WIDTHS: Mapping[Page, float] = {"wide": 10.4, "narrow": 4.2}
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_FONT = re.compile(r"font: ?(?:[a-z0-9]+ )*?([\d.]+)px [^;]*")
_MARK = re.compile(rf"{MARK}-([a-z0-9_]+)-\d+")
_COLORS = re.compile("|".join(color_variables()))


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: `svg` is markup of our own, `title` and `caption` are plain text.

    narrow: the same for a phone, where `svg` would have to be scrolled or could not be read.
    """

    svg: Any
    title: str
    caption: str = ""
    narrow: Any = None


class Canvas:
    """A figure under the report's settings; `tag` gives parts of it a class on the page."""

    def __init__(self, name: str, width: float, height: float) -> None:
        """width and height in inches of 72 CSS units."""
        self.name = name
        self.figure: Figure = Figure(figsize=(width, height))
        self._tags = 0

    def tag(self, artist: Any, *classes: str) -> None:
        """Give an artist CSS classes (letters and digits)."""
        self._tags += 1
        artist.set_gid(f"{MARK}-{'_'.join(classes)}-{self._tags}")

    def plot(
        self, axes: Any, xs: Sequence[float], ys: Sequence[float], look: Look, **style: Any
    ) -> None:
        """Draw a line or a mark of a method in its color."""
        (line,) = axes.plot(xs, ys, color=look.sentinel, markeredgewidth=0, **style)
        self.tag(line, "curve", look.css)

    def write(
        self,
        axes: Any,
        at: tuple[float, float],
        words: str,
        look: Look,
        kind: str = "",
        **style: Any,
    ) -> None:
        """Write the name of a method; kind: a further class of it."""
        bold = "bold" if style.pop("bold", False) else "normal"
        label = axes.text(*at, words, color=INK, va="center", fontweight=bold, **style)
        self.tag(label, *filter(None, ("curve", kind)), look.css)

    def svg(self, title: str, description: str) -> Any:
        """The figure as an inline element of HTML; title and description are read aloud."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return Markup(_fit(buffer.getvalue(), self.name, title, description))


@contextlib.contextmanager
def use_settings() -> Iterator[None]:
    """Figures have the settings of the report, not the user's, and give no warnings.

    A glyph that the font lacks affects only the layout, since the browser has its own fonts.
    """
    own = str(Path(__file__).with_name("figures.mplstyle"))
    with warnings.catch_warnings(), style.context(own, after_reset=True):
        warnings.simplefilter("ignore")
        yield


def draw_twice(title: str, caption: str, draw: Callable[[Page], Any]) -> Picture:
    """A picture over the whole width of the page, drawn for a desktop and for a phone."""
    return Picture(draw("wide"), title, caption, draw("narrow"))


def _fit(text: str, name: str, title: str, description: str) -> str:
    """Matplotlib's SVG for the page: CSS variables for colors, no fonts, ids of its own."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            # The style of a figure would apply to the whole page.
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _fit_element(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for tag, content in (("desc", description), ("title", title)):
        child = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        child.text = content
        root.insert(0, child)
    return ElementTree.tostring(root, encoding="unicode")


def _fit_element(element: ElementTree.Element, name: str) -> None:
    """Ids of tagged elements become classes, others get the figure's name, those of groups go."""
    for key, value in list(element.attrib.items()):
        if key in ("id", LINK):
            del element.attrib[key]
        if key == "id":
            mark = _MARK.fullmatch(value)
            if mark:
                element.set("class", mark[1].replace("_", " "))
            elif element.tag != f"{{{SVG}}}g":
                element.set("id", f"{name}-{value}")
        elif key == LINK:
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        elif key == "clip-path":
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        else:
            value = _LONG.sub(
                lambda digits: f"{float(digits[0]):.2f}".rstrip("0").rstrip("."), value
            )
            value = _COLORS.sub(lambda color: color_variables()[color[0]], value)
            element.set(key, " ".join(_FONT.sub(r"font-size: \1px", value).split()))
    if element.tag != f"{{{SVG}}}text":
        element.text = None
    element.tail = None
