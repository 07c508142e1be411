"""What figures share: panels in a grid, one legend, rows of numbers, and the file."""

from __future__ import annotations

import hashlib
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.figures.labels import width_of
from fewshot_bench.analysis.figures.style import DATA, FORMATS, PANEL, SHAPE, Size, Style
from fewshot_bench.analysis.formats.style import COLORS, SETTINGS, Look, looks
from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.table import Cell, Group, Table
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.text import printable
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Mean, low and high.
Spot = tuple[float, float, float]


@dataclass(frozen=True, repr=False, eq=False)
class Drawing:
    """A figure and the numbers in it; it is drawn when it is first needed.

    rows: a mapping per number that belongs into it, also of those that are missing. draw: returns
    matplotlib's figure. notes, commands: those of the table.

    >>> results.figure("shots").save("curves.pdf", "curves.csv")
    """

    kind: str
    style: Style
    table: Table
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[], Figure]
    panels: int = 1
    notes: Sequence[str] = ()

    @property
    def signature(self) -> str:
        """The signature of its records, which its files state."""
        return self.table.signatures.get("", "")

    @property
    def missing(self) -> list[str]:
        """What is a gap: `coop on dtd, 4-shot`."""
        return [
            f"{row['method']} on {row['dataset']}, {row['shots']}-shot"
            for row in self.rows
            if row["mean"] is None and row["status"] != "inapplicable"
        ]

    @cached_property
    def figure(self) -> Figure:
        """Matplotlib's figure."""
        import matplotlib

        with matplotlib.rc_context(self.style.settings):
            return self.draw()

    @cached_property
    def digest(self) -> str:
        """A digest of everything that it is drawn from, which its files state."""
        parts = self.kind, self.style, self.table.main.quantity, self.to_csv(), self.signature
        text = repr((*parts, __version__))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()

    def to_bytes(self, form: str) -> bytes:
        """The content of a file in format `pdf`, `svg` or `png`."""
        return save(self.figure, form, self.signature, self.style.settings, digest=self.digest)

    def to_csv(self) -> str:
        """The numbers as CSV."""
        return write_csv(self.rows, ())

    def to_frame(self) -> pd.DataFrame:
        """The numbers as a pandas data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def save(self, *paths: str | PathLike[str]) -> None:
        """Write to files whose names end in .pdf, .svg, .png, or .csv for the numbers."""
        for path in map(Path, paths):
            suffix = path.suffix.lower()
            if suffix not in (*FORMATS, DATA):
                ends = ", ".join((*FORMATS, DATA))
                raise UsageError(f"'{path}': expected a name that ends in {ends}")
            content = self.to_csv().encode() if suffix == DATA else self.to_bytes(suffix[1:])
            try:
                write_whole(path, content)
            except OSError as error:
                raise UsageError(f"cannot write '{path}': {error.strerror}") from error

    def _repr_png_(self) -> bytes:
        return self.to_bytes("png")

    def __repr__(self) -> str:
        return f"Drawing({self.kind}, {self.panels} panels; save it, or show it in a notebook)"


def save(
    drawn: Figure,
    form: str,
    about: str,
    style: Any = SETTINGS,
    *,
    digest: str = "",
    transparent: bool = False,
) -> bytes:
    """The content of a figure's file in format `pdf`, `svg` or `png`.

    about, digest: what the file states about itself, not the date, so that equal content gives
    equal files. style: matplotlib's settings.
    """
    import matplotlib

    names = {"svg": ("Description", "Date"), "pdf": ("Subject", "CreationDate")}
    subject, date = names.get(form, ("Description", ""))
    metadata: dict[str, Any] = {subject: about} | ({date: None} if date else {})
    if digest:
        metadata["Keywords"] = [digest] if form == "svg" else digest
    buffer = io.BytesIO()
    look: Any = {"dpi": 200, "transparent": transparent}
    with matplotlib.rc_context(style):
        drawn.savefig(buffer, format=form, metadata=metadata, **look)
    return buffer.getvalue()


class Panels:
    """A figure of panels in a grid, which share a legend below them; unused places are empty."""

    def __init__(self, style: Style, count: int, *, legend: int = 0, shape: float = SHAPE) -> None:
        """legend: lines of the legend. shape: width of a panel by its height."""
        from matplotlib.figure import Figure

        self.style = style
        size, line = style.size, style.size.font * 1.6 / 72
        self.across = style.across or _across(size, count)
        self.across = min(self.across, count)
        down = math.ceil(count / self.across)
        width = min(size.width / self.across, 3.4)
        height = size.height or down * (width / shape + 2 * line) + legend * line
        self.figure: Figure = Figure(figsize=(size.width, height), layout="constrained")
        grid: Any = self.figure.subplots(down, self.across, squeeze=False)
        self.axes: list[Axes] = list(grid.flat)[:count]
        for axes in list(grid.flat)[count:]:
            axes.set_axis_off()

    @property
    def left(self) -> list[Axes]:
        """The panels on the left, which name the vertical axis of their line."""
        return self.axes[:: self.across]

    @property
    def low(self) -> list[Axes]:
        """The panels with none below them."""
        return self.axes[-self.across :]

    def limit(self, ranges: Sequence[tuple[float, float]], kind: str) -> None:
        """Set the vertical limits. ranges: those of each panel; kind: one of `Style.axes`."""
        whole = min(low for low, _ in ranges), max(high for _, high in ranges)
        for axes, own in zip(self.axes, ranges, strict=True):
            low, high = whole if kind == "shared" else own
            axes.set_ylim(min(low, 0.0) if kind == "zero" else low, high)

    def write_legend(self, entries: Mapping[str, Any], ours: Sequence[str] = ()) -> None:
        """Write one legend below all panels. entries: handles by label, in order."""
        if not entries:
            return
        legend = self.figure.legend(
            list(entries.values()),
            [text(label) for label in entries],
            loc="outside lower center",
            ncols=legend_columns(self.style, list(entries)),
            frameon=False,
            borderaxespad=0.1,
            columnspacing=1.2,
            handletextpad=0.5,
        )
        for label, words in zip(entries, legend.get_texts(), strict=True):
            words.set_fontweight("bold" if label in ours else "normal")


def _across(size: Size, count: int) -> int:
    """Panels in a row: of the usual width, or such that they fill the height in a good shape."""
    if size.height is None:
        return max(1, round(size.width / PANEL))

    def misfit(across: int) -> float:
        shape = (size.width / across) / (float(size.height or 1) / math.ceil(count / across))
        return abs(math.log(shape / SHAPE))

    return min(range(1, count + 1), key=misfit)


def legend_columns(style: Style, labels: Sequence[str]) -> int:
    """The most columns whose labels fit into the width of the figure."""
    font, room = style.size.font, style.size.width * 72
    widths = [width_of(text(label), font) + 4.0 * font for label in labels]
    for columns in range(len(labels), 1, -1):
        # Matplotlib fills columns one after the other, the first ones with one more.
        each, more = divmod(len(widths), columns)
        sizes = [each + 1] * more + [each] * (columns - more)
        starts = [sum(sizes[:index]) for index in range(columns)]
        parts = [widths[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        if sum(map(max, parts)) <= room:
            return columns
    return 1


def legend_lines(style: Style, labels: Sequence[str]) -> int:
    """The lines of a legend."""
    return math.ceil(len(labels) / legend_columns(style, labels)) if labels else 0


def looks_of(table: Table) -> dict[str, Look]:
    """The look of each row by label, which a new name does not change."""
    names = [row.spec.label for row in table.rows]
    if len(set(names)) < len(names):
        names = [row.label for row in table.rows]
    look_by_name = looks(names)
    return {row.label: look_by_name[name] for row, name in zip(table.rows, names, strict=True)}


def color_of(look: Look) -> str:
    """The color of a method on paper."""
    return COLORS[look.color][0]


def groups_of(table: Table) -> list[Group]:
    """Groups with any number: averages over several groups first, then the others."""
    averages = [g for g in table.groups if g.average and len(table.members(g)) > 1]
    others = [group for group in table.groups if not group.average]
    return [group for group in (*averages, *others) if _has_number(table, group)]


def _has_number(table: Table, group: Group) -> bool:
    return any(
        table.metric in table.cell(group, row, shots).estimates
        for row in table.rows
        for shots in group.shots
    )


def refuse_nothing(table: Table, panels: Sequence[Any]) -> None:
    """UsageError if there is no number to draw."""
    if not panels:
        raise UsageError(f"no record here has the metric {table.metric} to draw")


def bounds_of(cell: Cell, metric: str, spread: str) -> tuple[float, float]:
    """The ends of the spread around the mean of a cell; the mean itself without one."""
    value: Estimate = cell.estimates[metric]
    if spread == "interval":
        return value.bounds
    own = list(cell.series[metric].values())
    deviation = statistics.stdev(own) if len(own) > 1 and spread == "std" else 0.0
    return value.mean - deviation, value.mean + deviation


def spot_of(cell: Cell, metric: str, spread: str) -> Spot:
    """Mean, low and high of a cell that has the metric."""
    return cell.estimates[metric].mean, *bounds_of(cell, metric, spread)


def row_of(table: Table, cell: Cell, spread: str, **more: Any) -> dict[str, Any]:
    """A number of a figure as a row of its data."""
    value = cell.estimates.get(table.metric)
    low, high = bounds_of(cell, table.metric, spread) if value else (None, None)
    return {
        "dataset": cell.group.name,
        "method": cell.row.label,
        "shots": str(cell.shots),
        "metric": table.metric,
        "mean": None if value is None else round(value.mean, 6),
        "low": None if low is None else round(low, 6),
        "high": None if high is None else round(high, 6),
        "n_seeds": value.n if value else 0,
        "status": cell.status,
        **more,
    }


def range_of(numbers: Sequence[Spot], metric: Metric) -> tuple[float, float]:
    """Limits of an axis for some (mean, low, high), with some room.

    A spread much wider than the range of all means is cut.
    """
    if not numbers:
        return 0.0, 1.0
    means = [mean for mean, _, _ in numbers]
    room = max(max(means) - min(means), 10.0 ** (2 - metric.digits))
    low = min(max(low, mean - room) for mean, low, _ in numbers)
    high = max(min(high, mean + room) for mean, _, high in numbers)
    low, high = low - 0.08 * room, high + 0.08 * room
    return (max(low, 0.0), min(high, 101.0)) if metric.unit == PERCENT else (low, high)


def text(name: str) -> str:
    """Text without control characters; a zero-width space keeps a leading `_` in the legend."""
    shown = printable(name)
    return f"\u200b{shown}" if shown.startswith("_") else shown
