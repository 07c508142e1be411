"""Names in figures: how wide they are, and where there is room for them beside marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Upper bound on the width of a text in points: DejaVu Sans is wider than fonts of a page.

    Characters that it lacks, such as Chinese, are measured by their columns in a terminal.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path
    from rich.cells import cell_len

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return max(float(width), 0.55 * size * cell_len(text))


def place_names(
    marks: Sequence[np.ndarray], sizes: Sequence[np.ndarray], frame: np.ndarray
) -> list[tuple[np.ndarray, float]]:
    """The low corner of each name, and how far it is from its mark.

    marks: (2,) each, in the order in which names choose their places. sizes: (2,) widths and
    heights. frame: (4,) left, bottom, right, top. All in points.
    """
    boxes = [np.concatenate((mark - 3, mark + 3)) for mark in marks]
    places = []
    for mark, size in zip(marks, sizes, strict=True):
        low, gap = _find_room(mark, size, frame, np.array(boxes))
        boxes.append(np.concatenate((low, low + size)))
        places.append((low, gap))
    return places


def _find_room(
    mark: np.ndarray, size: np.ndarray, frame: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, float]:
    """The low corner for a name of this size inside the frame, and how far it is from its mark.

    Of the places of a grid, it is the one that covers the least of `boxes`, then the nearest.
    boxes: (boxes, 4), as the frame: left, bottom, right, top. All in points.
    """
    steps = [
        np.arange(first, max(last, first) + 0.1, step)
        for first, last, step in zip(frame[:2], frame[2:] - size, (4.0, 2.5), strict=True)
    ]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    sides = np.minimum(grid[:, None] + size, boxes[:, 2:]) - np.maximum(grid[:, None], boxes[:, :2])
    cover = np.maximum(sides, 0.0).prod(axis=2).sum(axis=1)
    gaps = np.hypot(*np.maximum(np.maximum(grid - mark, mark - grid - size), 0.0).T)
    best = np.lexsort((gaps, cover))[0]
    return grid[best], float(gaps[best])
