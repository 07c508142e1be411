"""Style of methods in figures: each has a color, a marker and dashes, the same in every figure.

`looks` gives them by the label alone, so that a method looks the same beside any others.

Colors are distinguishable with any color vision (after Okabe and Ito 2008, and Tol's `bright` and
`muted` schemes), darkened or lightened to a contrast of at least 3:1 with the page (WCAG 2.2,
1.4.11); markers and dashes identify methods without color.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# (on a light page, on a dark page)
COLORS = (
    ("#0072b2", "#56b4e9"),
    ("#c94f00", "#f08a3c"),
    ("#00795c", "#2fbf95"),
    ("#aa3377", "#e885bd"),
    ("#806600", "#d8c13f"),
    ("#5a5f66", "#b4bac2"),
    ("#6a3d9a", "#b79ae8"),
    ("#1b8a9c", "#6fd0de"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# Matplotlib's dash patterns in points: (offset, (on, off, ...)); dots are for no shots.
LINES = ((0.0, ()), (0.0, (5.0, 2.0)))
# With this number no two built-in methods look the same. Eight that are run most often (those of
# the demo, `clip-adapter` and `maple`) have a color each, and so have the next five (`cocoop`,
# `kgcoop`, `prograd`, `taskres` and `promptsrc`).
SALT = 102570291
# More lines than this in one panel cannot be distinguished.
MOST = 16
INK, FAINT, PAPER = "#010101", "#020202", "#040404"


@dataclass(frozen=True, slots=True)
class Look:
    """One of the looks, which follow one another: first all colors, then markers, then dashes."""

    index: int

    @property
    def color(self) -> int:
        """Index into `COLORS`."""
        return self.index % len(COLORS)

    @property
    def sentinel(self) -> str:
        """Placeholder color, replaced when the figure is embedded in the page."""
        return f"#0300{self.color:02x}"

    @property
    def marker(self) -> str:
        """Matplotlib's name of the marker."""
        return MARKERS[self.index // len(COLORS) % len(MARKERS)]

    @property
    def scale(self) -> float:
        """The factor by which a marker is enlarged, so that all cover about the same area."""
        return {"*": 1.6, "o": 1.0, "s": 0.95}.get(self.marker, 1.2)

    @property
    def line(self) -> tuple[float, tuple[float, ...]]:
        """Matplotlib's dash pattern."""
        return LINES[self.index // (len(COLORS) * len(MARKERS)) % len(LINES)]

    @property
    def css(self) -> str:
        """The CSS class of all elements of the method in a figure."""
        return f"s{self.index}"

    @property
    def variable(self) -> str:
        """The color as a CSS variable of the page."""
        return f"var(--c{self.color})"


def looks(labels: Sequence[str]) -> Mapping[str, Look]:
    """The look of every method in a figure or on a page.

    It follows from the label, whatever the others are. Only where that of an earlier label would be
    the same, it is the next one that is free; no two built-in methods look the same.
    """
    count = len(COLORS) * len(MARKERS) * len(LINES)
    looks_by_label: dict[str, Look] = {}
    free = set(range(count))
    for label in sorted(labels):
        digest = hashlib.sha256(f"{SALT} {label}".encode("utf-8", "backslashreplace")).digest()
        first = int.from_bytes(digest[:8], "big")
        following = ((first + step) % count for step in range(count))
        # With all looks taken, only the index is still one of its own.
        index = next((index for index in following if index in free), len(looks_by_label))
        free.discard(index)
        looks_by_label[label] = Look(index)
    return looks_by_label


def variables(dark: bool) -> str:
    """The CSS variables of all colors."""
    return "".join(f"--c{index}:{pair[dark]};" for index, pair in enumerate(COLORS))


def color_variables() -> dict[str, str]:
    """CSS variable by sentinel color."""
    colors = {Look(index).sentinel: f"var(--c{index})" for index in range(len(COLORS))}
    return colors | {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--paper)"}


# Points of matplotlib's viridis, which stays in order for color-blind readers and in gray.
_MAP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def shade_colors(position: float) -> tuple[str, str]:
    """The color of a map at a position from 0 to 1, as `rgb(r,g,b)`, and that of text on it."""
    index = min(int(position * (len(_MAP) - 1)), len(_MAP) - 2)
    share = position * (len(_MAP) - 1) - index
    ends = zip(_MAP[index], _MAP[index + 1], strict=True)
    red, green, blue = (round(low + share * (high - low)) for low, high in ends)
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 128
    return f"rgb({red},{green},{blue})", "black" if is_light else "white"


# Equal records give equal files, and text stays text.
SETTINGS: Any = {
    "svg.hashsalt": "fsbench",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.size": 8,
    # A dollar sign in a name must not start a formula.
    "text.parse_math": False,
}
