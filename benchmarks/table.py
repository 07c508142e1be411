"""Table of comparisons, one line each."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure import Pair

COLUMNS = (
    ("what", 22),
    ("model", 9),
    ("classes", 8),
    ("ours s", 10),
    ("official s", 11),
    ("ratio", 8),
    ("MB", 16),
    ("images", 10),
    ("text tokens", 15),
    ("of peak", 8),
    ("logits, gradients", 19),
)


@dataclass(frozen=True)
class Row:
    """A comparison; pairs are (ours, official), None is unknown.

    fraction: of the machine's peak rate; gaps: largest relative difference of logits and of
    gradients.
    """

    what: str
    model: str
    classes: int
    times: Pair
    memory: tuple[float, float | None] | None = None
    images: tuple[int, int] = (0, 0)
    tokens: tuple[int, int] = (0, 0)
    fraction: float | None = None
    gaps: tuple[float, float] | None = None

    def text(self) -> str:
        """The row as a line of text."""
        cells = (
            self.what,
            self.model,
            f"{self.classes}",
            f"{self.times.ours:.4f}",
            f"{self.times.official:.3f}",
            f"{self.times.ratio:.1f}",
            self._memory(),
            f"{self.images[0]:,}/{self.images[1]:,}",
            f"{self.tokens[0]:,}/{self.tokens[1]:,}",
            "" if self.fraction is None else f"{100 * self.fraction:.0f} %",
            "" if self.gaps is None else f"{self.gaps[0]:.0e}, {self.gaps[1]:.0e}",
        )
        return _line(cells)

    def _memory(self) -> str:
        if self.memory is None:
            return ""
        theirs = "?" if self.memory[1] is None else f"{self.memory[1]:,.0f}"
        return f"{self.memory[0]:,.0f}/{theirs}"


def _line(cells: tuple[str, ...]) -> str:
    places = zip(cells, COLUMNS, strict=True)
    return "".join(f"{c:<{w}}" if i < 2 else f"{c:>{w}}" for i, (c, (_, w)) in enumerate(places))


def heading() -> str:
    """The line of column names."""
    return _line(tuple(name for name, _ in COLUMNS))
