"""Find the fonts of this machine and split them into training and held-out families."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_ROOT = Path("/usr/share/fonts")

PACKAGE_LIST = Path(__file__).with_name("debian-packages.txt")

# Folders below FONT_ROOT that only the demo data set `letters` may use.
HELD_OUT = (
    "averia-gwf",
    "comic-neue",
    "courier-prime",
    "dosis",
    "kaushanscript",
    "leckerli-one",
    "lobster",
    "opendyslexic",
    "play",
    "ubuntu-title",
    "vollkorn",
)

GLYPHS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Font:
    """One usable font file, its family folder and the weight it is drawn with."""

    path: Path
    family: str
    weight: float


def rasterize(font: ImageFont.FreeTypeFont, char: str, side: int = 160) -> np.ndarray | None:
    """Draw one character white on black, cropped to its ink, or None without ink."""
    image = Image.new("L", (side, side), 0)
    ImageDraw.Draw(image).text((side // 2, side // 2), char, fill=255, font=font, anchor="mm")
    box = image.getbbox()
    if box is None or box[0] == 0 or box[1] == 0 or box[2] == side or box[3] == side:
        return None
    return np.asarray(image.crop(box))


def is_usable(path: Path) -> bool:
    """Say whether a font draws every glyph, all digits and letters differently."""
    try:
        font = ImageFont.truetype(str(path), 60)
        drawn = [rasterize(font, char) for char in GLYPHS[:36]]
        lower = [rasterize(font, char) for char in GLYPHS[36:]]
        missing = rasterize(font, "\uffff")
    except (OSError, ValueError):
        return False
    if any(glyph is None or min(glyph.shape) < 3 for glyph in drawn + lower):
        return False
    seen = {glyph.tobytes() for glyph in drawn if glyph is not None}
    if missing is not None and missing.tobytes() in seen:
        return False
    return len(seen) >= 34


def find_fonts(root: Path = FONT_ROOT) -> tuple[list[Font], list[Font]]:
    """Return the usable fonts as (training, held out), families weighted by root of size."""
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".ttf", ".otf"))
    usable = [path for path in paths if is_usable(path)]
    sizes = Counter(path.parent for path in usable)
    fonts = [Font(p, p.parent.name, float(sizes[p.parent] ** -0.5)) for p in usable]
    training = [font for font in fonts if font.family not in HELD_OUT]
    held_out = [font for font in fonts if font.family in HELD_OUT]
    return training, held_out


def describe(fonts: list[Font]) -> str:
    """Return a one-line account of the families among some fonts."""
    counts = Counter(font.family for font in fonts)
    families = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{len(fonts)} fonts in {len(counts)} families ({families})"
