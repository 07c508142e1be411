"""Line plots for the terminal: braille dots, or letters where several lines have no colors."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

from fewshot_bench.utils.text import color_system, printable

# Rows of a plot.
HEIGHT = 12
# Dots of a character: its bits by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800
_COLORS = ("blue", "red", "green", "magenta", "yellow", "cyan", "bright_black", "bright_red")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Most lines that a plot can tell apart.
MOST = len(_LETTERS)


class Line(NamedTuple):
    """Points of one line, in the order of x."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


def plot(title: str, lines: Sequence[Line], width: int, *, styled: bool = False) -> str:
    """Lines over one pair of axes, with a legend if there are several.

    styled: whether to include terminal escape codes. At most MOST lines, each with a point.
    """
    from rich.console import Console
    from rich.text import Text

    colored = styled and color_system() is not None and len(lines) <= len(_COLORS)
    low, high = _bounds([y for line in lines for y in line.ys])
    left, right = _bounds([x for line in lines for x in line.xs])
    heads = [f"{value:.4g}" for value in (high, (low + high) / 2, low)]
    margin = max(map(len, heads))
    columns = max(10, width - margin - 2)
    dotted = colored or len(lines) == 1
    across, down = (2, 4) if dotted else (1, 1)
    grid: list[list[tuple[int, int]]] = [[(0, 0)] * columns for _ in range(HEIGHT)]
    for number, line in enumerate(lines):
        spots = [
            (
                round((x - left) / (right - left) * (columns * across - 1)),
                round((high - y) / (high - low) * (HEIGHT * down - 1)),
            )
            for x, y in zip(line.xs, line.ys, strict=True)
        ]
        for x, y in _trace(spots):
            dots, _ = grid[y // down][x // across]
            bit = _DOTS[y % down][x % across] if dotted else 1
            grid[y // down][x // across] = dots | bit, number
    shown = Text(printable(title), style="bold")
    for index, row in enumerate(grid):
        place = {0: 0, HEIGHT // 2: 1, HEIGHT - 1: 2}.get(index)
        shown.append("\n" + (heads[place] if place is not None else "").rjust(margin), "not bold")
        shown.append(" ┤" if place is not None else " │", "not bold")
        marks = (chr(_BLANK + dots) if dotted else _LETTERS[number] for dots, number in row)
        styles = (_COLORS[number] if colored and dots else "" for dots, number in row)
        drawn = [mark if dots else " " for mark, (dots, _) in zip(marks, row, strict=True)]
        for style, same in groupby(zip(styles, drawn, strict=True), key=itemgetter(0)):
            shown.append("".join(mark for _, mark in same), f"not bold {style}")
    ends = f"{left:g}", f"{right:g}"
    shown.append("\n" + " " * (margin + 1) + "└" + "─" * columns, "not bold")
    gap = columns - len(ends[0]) - len(ends[1])
    shown.append(f"\n{' ' * (margin + 2)}{ends[0]}{'step':^{max(gap, 6)}}{ends[1]}", "not bold")
    for number, line in enumerate(lines) if len(lines) > 1 else ():
        mark = "━━" if colored else _LETTERS[number]
        shown.append(
            f"\n{' ' * (margin + 2)}{mark}", f"not bold {_COLORS[number] if colored else ''}"
        )
        shown.append(f" {printable(line.label)}", "not bold")
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width + 10,
        force_terminal=styled,
        force_jupyter=False,
        color_system=color_system(),
        highlight=False,
        legacy_windows=False,
    )
    console.print(shown, soft_wrap=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _bounds(numbers: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest number, with some room if they are equal."""
    low, high = min(numbers), max(numbers)
    if high - low > 0 and math.isfinite(high - low):
        return low, high
    room = max(abs(low) / 10, 0.5) if high == low else 0.0
    return low - room, high + room


def _trace(spots: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The dots on the way from each spot to the next."""
    yield from spots[:1]
    for (x, y), (to_x, to_y) in pairwise(spots):
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for step in range(1, steps + 1):
            yield x + round((to_x - x) * step / steps), y + round((to_y - y) * step / steps)
