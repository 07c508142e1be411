"""A comparison of methods: from records to tables, and the tables in every format.

`compare` builds the tables for the command line and the library; `Comparison` is the object of the
Python API. The numbers are those of `fsbench compare`.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.blocks import Block, Made, document_of, map_blocks, the_only
from fewshot_bench.analysis.sweep.panels import SweepOptions, sweep_of
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.layouts import DEFAULT, lay_out
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import plain
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.utils.errors import (
    DataMissingError,
    PluginError,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fewshot_bench.analysis.formats.document import Document
    from fewshot_bench.analysis.table.significance import Answers
    from fewshot_bench.analysis.table.table import Table

Target = str | PathLike[str] | None
Shown = tuple["Table", Sequence[Record]]


def compare(
    records: Sequence[Record],
    outcomes: Outcomes,
    options: Options,
    warn: Callable[[str], None],
) -> list[Made[Shown]]:
    """A table per set of conditions, and the records that it uses (without damaged logits).

    Metrics of the options are computed from logits for records that lack them. warn: called for
    metrics that cannot be computed, plug-ins whose columns are left out, and sets of conditions
    that have no table. UsageError when the records of all of these must not share a
    table, DataMissingError if the logits of all are damaged.
    """
    completed = outcomes.completed(records, options.metrics)
    for text in outcomes.lacking(completed, options.metrics):
        warn(text)
    columns = _plugin_columns(warn)

    def make(block: Block, options: Options) -> Shown:
        answers = _answers(outcomes, block.records, options)
        usable = _usable(block.records, outcomes)
        data = block.data if len(usable) == len(block.data) else None
        table = build(usable, options, columns, answers, data)
        if columns is not None and columns.failed:
            # Rebuild without columns of the failed plug-ins, which earlier lines still have.
            table = build(usable, options, columns, answers, data)
        return table, usable

    return map_blocks(completed, options, make, warn)


def find_metrics(asked: Iterable[str]) -> dict[str, Metric]:
    """The built-in metrics, and the requested metrics of plug-ins."""
    from fewshot_bench.api.plugins import has_third_party

    if not has_third_party():
        return dict(METRICS)
    from fewshot_bench.api.registry import registry

    plugins, wanted = registry(), {name.strip() for name in asked} - METRICS.keys()
    for name in wanted:
        plugins.metrics.refuse_conflict(name)
    own = [name for name in plugins.metrics.names() if name in wanted]
    return {**METRICS, **{name: plugins.metric(name) for name in own}}


def _answers(outcomes: Outcomes, records: Sequence[Record], options: Options) -> Answers | None:
    """The reader of predictions for tests; None without a baseline and without crossed seeds."""
    seeds = {(record.spec.split_seed, record.spec.train_seed) for record in records}
    crossed = len(seeds) > max(len({split for split, _ in seeds}), len({t for _, t in seeds}))
    if not (options.baseline or crossed):
        return None
    outcomes.prepare(records)

    def answer(record: Record) -> Any:
        try:
            return outcomes.of(record)
        except StoreError:
            return None

    return answer


def _usable(records: Sequence[Record], outcomes: Outcomes) -> Sequence[Record]:
    """Drop records whose logits are known to be damaged; DataMissingError if none is left."""
    damaged = {damage.path for damage in outcomes.damaged}
    if not damaged:
        return records
    store = outcomes.store
    usable = [r for r in records if store.file(r.spec.key()).with_suffix(".npz") not in damaged]
    if not usable:
        raise DataMissingError(
            f"the logits of all {len(records)} records are damaged ({outcomes.damaged[0]}); "
            f"fsbench store verify --store {shlex.quote(str(store.path))}"
        )
    return usable


class _PluginColumns:
    """The plug-ins' extra columns; a plug-in that fails is left out, with a warning."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.failed: set[str] = set()

    def __call__(self, records: Sequence[Record]) -> Mapping[str, Any]:
        """{title: value} for the records of one line."""
        from fewshot_bench.api.registry import registry

        columns: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for plugin, part in registry().call("table_columns", self._drop, records=records):
            twice = [title for title in part if title in owners]
            if twice:
                text = f"table_columns of plug-in {plugin} gave '{twice[0]}', as {owners[twice[0]]}"
                self._drop(plugin, PluginError(text))
            if plugin not in self.failed:
                owners |= dict.fromkeys(part, plugin)
                columns |= {
                    title: value.item() if getattr(value, "shape", None) == () else value
                    for title, value in part.items()
                }
        return columns

    def _drop(self, plugin: str, failure: PluginError) -> None:
        if plugin not in self.failed:
            self.failed.add(plugin)
            self._warn(f"{failure}; its columns are left out")


def _plugin_columns(warn: Callable[[str], None]) -> _PluginColumns | None:
    """The plug-ins' extra columns, or None when no plug-in has any."""
    from fewshot_bench.api.plugins import has_third_party

    if not has_third_party():
        return None
    from fewshot_bench.api.registry import registry

    return _PluginColumns(warn) if registry().has_hook("table_columns") else None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Tables of methods, one per set of conditions; `str` gives what `fsbench compare` prints.

    layout: a name of `LAYOUTS`. swept: options of the layout `sweep`. Every `to_...` returns the
    text and, where a path is given, writes it there too.

    >>> results.compare(baseline="zero-shot").to_latex("table.tex")
    """

    made: Sequence[Made[Shown]]
    layout: str = DEFAULT
    swept: SweepOptions = field(default_factory=SweepOptions)

    @property
    def tables(self) -> list[Table]:
        """The tables."""
        return [part.value[0] for part in self.made if part.value is not None]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes below the tables."""
        return tuple(note for table in self.tables for note in table.notes)

    @property
    def missing_commands(self) -> tuple[str, ...]:
        """Commands that run the missing cells."""
        return tuple(command for table in self.tables for command in table.commands)

    def __str__(self) -> str:
        return self._text("terminal")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._text("html")

    def _text(self, form: str) -> str:
        from fewshot_bench.analysis import formats

        return formats.render(self._document(form), form)

    def _document(self, form: str, caption: str = "") -> Document:
        # JSON holds all numbers, which the paper layout leaves out.
        name = DEFAULT if form == "json" and self.layout == "paper" else self.layout
        return document_of(
            self.made, lambda shown: lay_out(shown[0], form, name, caption, self.swept)
        )

    def to_html(self, path: Target = None) -> str:
        """HTML tables with the content of the terminal output."""
        return _write(self._repr_html_(), path)

    def to_markdown(self, path: Target = None) -> str:
        """Markdown tables."""
        return _write(self._text("markdown"), path)

    def to_latex(self, path: Target = None, *, caption: str = "", label: str = "") -> str:
        """LaTeX tables (booktabs); caption, label: only for the paper layout.

        UsageError for a label with other characters than letters, digits and `:._/+-`.
        """
        from fewshot_bench.analysis.formats import latex

        if self.layout != "paper":
            if caption or label:
                raise UsageError("a caption and a label belong to compare(layout='paper')")
            return _write(self._text("latex"), path)
        latex.check_label(label, "label")
        shown = self._document("latex", caption)
        return _write(latex.write_paper(shown, label=label, caption=caption), path)

    def to_csv(self, path: Target = None) -> str:
        """One tidy row per data set, method and shots, with all metrics."""
        return _write(self._text("csv"), path)

    def to_json(self, path: Target = None) -> str:
        """The rows of `to_csv`, with metadata that holds for all of them."""
        return _write(self._text("json"), path)

    def to_frame(self) -> pd.DataFrame:
        """The rows of `to_csv` as a pandas data frame."""
        shown = self._document("csv")
        return frame(plain(shown.rows), shown.heads)

    def curves(self) -> Figure:
        """The metric over shots as a matplotlib figure, a panel per data set.

        In the layout `sweep` it is over the options: heat maps, or a curve over one of them.
        UsageError for several sets of conditions.
        """
        from fewshot_bench.analysis.sweep import heat_map
        from fewshot_bench.analysis.table.figure import figure, panels

        table, _ = the_only(self.made, "a figure")
        if not panels(table):
            raise UsageError(f"no record here has the metric {table.metric} to draw")
        is_sweep = self.layout == "sweep"
        drawn = heat_map.figure(sweep_of(table, self.swept)) if is_sweep else figure(table)
        # Lets notebooks display the figure without pyplot, which would keep it open.
        vars(drawn)["_repr_png_"] = partial(_png, drawn)
        return drawn


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """A pandas data frame of rows; columns: its columns if there are no rows."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=None if rows else list(columns))


def _write(text: str, path: Target) -> str:
    if path is not None:
        try:
            Path(path).write_bytes(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UsageError(f"cannot write '{path}': {error.strerror}") from error
    return text
