"""Results of a store in Python: `Results` holds records, and shows, filters and compares them.

`load` reads a store; `fewshot_bench.run` returns `Results` of the requested cells. `Results` are
immutable: filters return new ones.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.comparison import Comparison, compare, find_metrics, frame_rows
from fewshot_bench.analysis.figures.style import (
    AXES,
    DEFAULT_SIZE,
    FONTS,
    KINDS,
    ZERO_SHOT,
    Style,
    read_size,
)
from fewshot_bench.analysis.filters import (
    is_method_object,
    of_methods,
    several,
    with_options,
    words_of,
)
from fewshot_bench.analysis.lending import LENT, allow, allowed_by
from fewshot_bench.analysis.sweep.panels import SweepOptions, select_swept
from fewshot_bench.analysis.table.costs import costs_of, every_cost
from fewshot_bench.analysis.table.grids import SHOTS, SPREADS, Display
from fewshot_bench.analysis.table.layouts import DEFAULT, LAYOUTS, check_options, check_stack
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.record import STATUSES, Record
from fewshot_bench.api.spec import CONDITIONS, DEFAULT_STORE, RunSpec, canonical_json, plain
from fewshot_bench.store.kept_models import model_of
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.arguments import (
    FLAG,
    FOLDER,
    RENAMING,
    Kind,
    checked,
    names,
    optional,
    text,
    whole,
    word,
)
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError, unknown
from fewshot_bench.utils.text import few
from fewshot_bench.utils.withheld import refuse

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from fewshot_bench.analysis.figures.drawing import Drawing
    from fewshot_bench.analysis.model import Model
    from fewshot_bench.store.answer_files import Stored

# Filters that are comma lists, and filters of one condition of a run.
_LISTS = ("method", "dataset", "classes", "shots", "seeds")
_CONDITIONS = (*CONDITIONS, "revision", "own_data", "code")
_OTHERS = ("status", "options")
_SHOWN = 20


def _read_method(value: Any) -> str:
    if isinstance(value, str | type) or is_method_object(value):
        return words_of(value)
    raise TypeError


def _read_groups(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError
    return {str(title): words_of(names) for title, names in value.items()}


def _swept(value: Any) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping):
        raise TypeError
    return {name: list(several(values)) for name, values in value.items()}


_COMPARED: Mapping[str, Kind] = {
    "baseline": optional(Kind("the name or the class of a method", _read_method)),
    "metric": text("the name of a metric"),
    "columns": optional(names("names of columns", 0)),
    "sort": text("the name of a metric or a cost"),
    "rename": optional(RENAMING),
    "layout": text(" or ".join(LAYOUTS)),
    "stack": text("shots, dataset or a condition of runs"),
    "spread": optional(word(*SPREADS)),
    "digits": optional(whole(0, 6)),
    "groups": optional(Kind("a mapping of titles to names of methods", _read_groups)),
    "ours": optional(Kind("the name or the class of a method", _read_method)),
    "options": optional(Kind("a mapping of options to values, as {'rank': [1, 2]}", _swept)),
    "each": FLAG,
    "allow_mixed": FLAG,
}
_DRAWN: Mapping[str, Kind] = {
    "size": Kind("a size such as cvpr-page, or inches", lambda value: read_size(value) and value),
    "font": word(*FONTS),
    "across": optional(whole(1)),
    "axes": word("", *AXES),
    "spread": word(*SPREADS),
    "bars": FLAG,
    "zero_shot": word(*ZERO_SHOT),
    "cost": names("names of costs", 0),
}
Value = str | int | type | None


@dataclass(frozen=True)
class CellPredictions:
    """Predictions of one cell, image by image; arrays are in the order of `ids`.

    ids, labels (n,) and predicted (n,): the test images, their true and predicted class indices.
    classnames: by class index. confidences, label_probabilities: (n,) probability of the predicted
    class and of the label. ranks: (n,) rank of the label among all classes, 1 if it is predicted.
    groups: (n,) number of an image's batch, or its position in the stream; None if each was alone.
    All of these are available whatever was kept of the logits (`--keep-logits`).

    >>> results.predictions(results.records()[0]).to_frame()
    """

    ids: tuple[str, ...] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    confidences: np.ndarray = field(repr=False)
    label_probabilities: np.ndarray = field(repr=False)
    ranks: np.ndarray = field(repr=False)
    classnames: tuple[str, ...]
    _read: Callable[[], Stored] = field(repr=False)
    groups: np.ndarray | None = field(repr=False, default=None)

    @cached_property
    def _stored(self) -> Stored:
        return self._read()

    @cached_property
    def logits(self) -> np.ndarray:
        """(n, classes) float32; StoreError if they were not kept.

        Stored as float16 gaps to the highest logit of each image, except by earlier versions: the
        logarithm of a probability p is off by at most 0.0005 (ln classes - ln p).
        """
        return self._stored.answers.logits

    @property
    def top(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, 5) classes and their probabilities, most probable first; fewer if there are fewer.

        StoreError if they were not kept.
        """
        if self._stored.top is None:
            raise StoreError(
                "the most probable classes were not kept (--keep-logits none); "
                "fsbench run ... --keep-logits top --force computes the cell again and keeps them"
            )
        return self._stored.top

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool: whether the prediction equals the label."""
        hits: np.ndarray = self.predicted == self.labels
        return hits

    @property
    def probabilities(self) -> np.ndarray:
        """(n, classes) softmax of the logits; StoreError if they were not kept."""
        import numpy as np

        shifted = self.logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def to_frame(self) -> pd.DataFrame:
        """One row per image as a pandas data frame."""
        import pandas as pd

        names = self.classnames or tuple(map(str, range(int(max(self.labels, default=-1)) + 1)))
        return pd.DataFrame(
            {
                "id": list(self.ids),
                "label": self.labels,
                "predicted": self.predicted,
                "label_name": [names[label] for label in self.labels],
                "predicted_name": [names[label] for label in self.predicted],
                "correct": self.correct,
                "confidence": self.confidences.astype(float),
                **({} if self.groups is None else {"group": self.groups}),
            }
        )


@dataclass(frozen=True, repr=False)
class Results:
    """Records of a store, in the order of the request.

    missing: data sets that could not be used, with the reason.

    >>> load("results").where(method="coop", shots=16).to_frame()
    """

    store: Path
    missing: Mapping[str, str] = field(default_factory=dict)
    _records: tuple[Record, ...] = ()
    _every: tuple[Record, ...] = ()
    _asked: Mapping[str, str] = field(default_factory=dict)

    def records(self) -> list[Record]:
        """All records: of finished, failed and inapplicable cells."""
        return list(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def failed(self) -> list[Record]:
        """The records of cells that failed; their `error` has the type, message and traceback."""
        return [record for record in self._records if record.status == "failed"]

    def where(
        self,
        predicate: Callable[[Record], bool] | None = None,
        /,
        **filters: Value | Sequence[Value] | Mapping[str, Any],
    ) -> Results:
        """The results that match all filters; UsageError for a value that no record has.

        predicate: a function of a record. filters, each one value or several: `method` (also a
        class or object), `dataset`, `classes`, `shots` and `seeds`; conditions of runs (`protocol`,
        `val`, `prompts`, `backbone`, `precision`, `device`, `limit`, `exif`, `published`,
        `augment`, `queries`, `views`, `bystanders`, `texts`, `pooling`, `weights`, `revision`,
        `own_data`, `code`), as of `fsbench compare`; `status`; `options`, a mapping. One value of
        `queries` and the four after it is what a table allows: it selects what needs less, too.
        """
        if predicate is not None and not callable(predicate):
            raise UsageError(f"where({predicate!r:.80}): expected a function of a record")
        # Materialize iterators, which can be consumed only once.
        filters = {n: tuple(v) if isinstance(v, Iterator) else v for n, v in filters.items()}
        chosen = self._records
        for name, value in filters.items():
            chosen = tuple(self._filter(chosen, name, value))
        if predicate is not None:
            chosen = tuple(filter(predicate, chosen))
        names = {"method", "dataset", *(n for n in LENT if len(several(filters.get(n, ()))) == 1)}
        asked = {name: words_of(value) for name, value in filters.items() if name in names}
        return replace(self, _records=chosen, _asked={**self._asked, **asked})

    def _filter(self, records: Sequence[Record], name: str, value: Any) -> Sequence[Record]:
        from fewshot_bench.analysis.filters import select

        if not several(value) and name != "options":
            raise UsageError(f"where({name}={value!r}): expected at least one value")
        if name == "status":
            for status in several(value):
                if status not in STATUSES:
                    raise unknown("status", str(status), STATUSES, "docs/reference/python.md")
            return [record for record in records if record.status in several(value)]
        if name == "options":
            return with_options(records, value)
        if name == "method" and any(map(is_method_object, several(value))):
            return of_methods(records, several(value))
        if name in _LISTS:
            return select(records, {name: words_of(value)})
        if name in _CONDITIONS:
            parts = [allow(records, {name: words_of(text)})[0] for text in several(value)]
            keys = {record.spec.key() for part in parts for record in part}
            return [record for record in records if record.spec.key() in keys]
        raise unknown("filter", name, (*_LISTS, *_CONDITIONS, *_OTHERS), "docs/reference/python.md")

    def predictions(self, record: Record) -> CellPredictions:
        """Predictions of a finished cell; StoreError if they cannot be read."""
        import numpy as np

        from fewshot_bench.analysis.table.per_class import class_names

        if not isinstance(record, Record):
            raise UsageError(f"{record!r:.80}: expected a record, as results.records() has them")
        outcome = self._outcomes.of(record)
        answers = outcome.read(False)
        return CellPredictions(
            outcome.ids,
            outcome.labels,
            outcome.predictions,
            answers.confidences,
            np.exp(-answers.surprises),
            answers.ranks,
            tuple(class_names([record], outcome.classes)),
            partial(self._opened.answers, record.spec.key()),
            answers.groups,
        )

    def model(self, record: Record, *, device: str = "auto", method: type | None = None) -> Model:
        """The model of a cell that was run with `keep_models`; StoreError if there is none.

        device, method: as in `load_model`. Warns if the record is of other classes than the fit,
        for which alone the model answers: new classes, or those of another data set.
        """
        from fewshot_bench.analysis.model import load_model

        if not isinstance(record, Record):
            raise UsageError(f"{record!r:.80}: expected a record, as results.records() has them")
        model = load_model(model_of(self._opened.path, record), device=device, method=method)
        if record.split.get("classnames") != list(model.classnames):
            warnings.warn(
                f"{record.spec.describe()}: the model answers for the classes of its fit "
                f"({few(model.classnames)}), not for those of the record",
                stacklevel=2,
            )
        return model

    def to_frame(self, *, metrics: str | Sequence[str] = ()) -> pd.DataFrame:
        """One tidy row per record as a pandas data frame.

        metrics: metrics of plug-ins, in addition to all built-in ones. Metrics that a record lacks
        are computed from its logits.
        """
        asked = checked({"metrics": names("names of metrics", 0)}, locals())["metrics"]
        every = find_metrics(asked)
        for name in asked:
            if name not in every:
                raise unknown("metric", name, every, "fsbench list metrics")
        outcomes = Outcomes(self._opened, [metric for metric in every.values() if metric.source])
        records = outcomes.complete(self._records, every)
        for lack in outcomes.list_missing(records, every):
            warnings.warn(lack, stacklevel=2)
        _warn_of_damage(outcomes)
        heads = dict.fromkeys((*HEADS, *every))
        return frame_rows([_row(record, every) for record in records], list(heads))

    def compare(
        self,
        baseline: Any = None,
        metric: str = "top1",
        *,
        columns: str | Sequence[str] | None = None,
        sort: str = "",
        rename: Mapping[str, str] | None = None,
        layout: str = DEFAULT,
        stack: str = SHOTS,
        spread: str | None = None,
        digits: int | None = None,
        groups: Mapping[str, Any] | None = None,
        ours: Any = None,
        options: Mapping[str, Any] | None = None,
        each: bool = False,
        allow_mixed: bool = False,
    ) -> Comparison:
        """Methods side by side, as `fsbench compare` shows them.

        baseline: a method (name, class or object) to which differences are shown, paired on
        identical splits. metric: the metric that is shown and ranked. columns: further columns;
        None for the layout's. sort: a metric (best first) or a cost (cheapest first). rename: new
        names for methods, data sets and averages. layout: a name of `LAYOUTS`. stack: what stands
        in blocks of the layouts `paper` and `costs`: `shots`, `dataset`, or a condition such as
        `backbone`. spread: `interval`, `std` or `none` behind a mean. digits: decimals of
        percentages. groups: methods by the title that they stand under. ours: the method that
        stands out. options: of the layouts `sweep` and `ablation`; the first of
        `options={"rank": [1, 2], "matrices": ["q", "qv"]}` gives columns of a sweep, then come rows
        and panels (None: all options that vary); `each` draws every data set beside the average.
        allow_mixed: whether records of different conditions share one table, as separate rows, in
        place of a table per set of conditions. UsageError for unknown names, for options that the
        layout has no room for, and for records that must not share a table.
        """
        from fewshot_bench.analysis.filters import Shown, current, newest, older_versions
        from fewshot_bench.analysis.table.ablation import select_changed
        from fewshot_bench.analysis.table.build import Options

        named = {"baseline": baseline, "columns": columns, "sort": sort, "ours": ours}
        named |= {"groups": groups, "spread": spread}
        values = checked(_COMPARED, locals())
        listed = columns if isinstance(columns, str | None) else ",".join(columns)
        metrics = find_metrics({metric, sort, *(listed or "").split(",")})
        if metric not in metrics:
            raise unknown("metric", metric, metrics, "fsbench list metrics")
        if sort and sort not in (*metrics, *every_cost()):
            raise unknown("order", sort, (*metrics, *every_cost()), "docs/how-to/compare.md")
        if layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS, "docs/how-to/compare.md")
        given = {
            *(["options"] if options is not None else []),
            *(["stack"] if stack != SHOTS else []),
            *(["each"] if each else []),
            *(name for name, value in named.items() if value),
        }
        check_options(layout, given, lambda name, value: f"{name}={value!r}" if value else name)
        swept = SweepOptions(values["options"] or {}, each)
        display = Display(layout, check_stack(stack), values["spread"] or "", digits, swept=swept)
        self._refuse_empty()
        asked = {name: self._asked.get(name) for name in LENT}
        records, left = allow(self._records, asked)
        shown = current(self._every, records, self._asked.get("method"), self.store)
        if allow_mixed:
            older = older_versions(records, newest(self._every, self.store))
            shown = Shown(records, (), older)
        records, notes = shown.records, (*left, *shown.notes)
        if layout in ("sweep", "ablation"):
            select = select_swept if layout == "sweep" else select_changed
            records, undrawn = select(records, swept)
            notes += undrawn
        table_options = Options(
            metric=metric,
            metrics=metrics,
            baseline=None if baseline is None else words_of(baseline),
            allow_mixed=allow_mixed,
            method=self._asked.get("method"),
            dataset=self._asked.get("dataset"),
            store=str(self.store),
            columns=listed,
            sort=sort,
            sign_each=True,
            rename=tuple(f"{old}={new}" for old, new in (rename or {}).items()),
            notes=notes,
            older=shown.older,
            groups=tuple((values["groups"] or {}).items()),
            ours=values["ours"],
            costs=costs_of(layout, sort, listed),
        )
        outcomes = Outcomes(self._opened, [about for about in metrics.values() if about.source])
        made = compare(records, outcomes, table_options, warnings.warn)
        _warn_of_damage(outcomes)
        return Comparison(made, display)

    def cite(self) -> str:
        """BibTeX of the methods, data sets, backbones and this tool; warns of names without."""
        from fewshot_bench.analysis.citations import of_records

        citations = of_records(self._records)
        for note in citations.notes:
            warnings.warn(note, stacklevel=2)
        return citations.text

    def figure(
        self,
        kind: str = "shots",
        *,
        metric: str = "top1",
        rename: Mapping[str, str] | None = None,
        ours: Any = None,
        size: str = DEFAULT_SIZE,
        font: str = "sans",
        across: int | None = None,
        axes: str = "",
        spread: str = "interval",
        bars: bool = False,
        zero_shot: str = "star",
        cost: str | Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        each: bool = False,
        allow_mixed: bool = False,
    ) -> Drawing:
        """A figure of a paper, shown in a notebook; `save` writes files.

        kind: `shots`, `base-new`, `cost` or `ablation`. The others are the options of `fsbench
        figure`; options, each: of an ablation, as in `compare`. UsageError for several sets of
        conditions, and without a number to draw.
        """
        from fewshot_bench.analysis.comparison import the_only
        from fewshot_bench.analysis.figures.kinds import FigureOptions, draw, refuse_foreign

        given = checked(_DRAWN, locals())
        if kind not in KINDS:
            raise unknown("figure", kind, KINDS, "docs/how-to/figures-and-tables.md")
        swept: dict[str, Any] = {"options": options, "each": each} if kind == "ablation" else {}
        made = self.compare(
            metric=metric,
            rename=rename,
            allow_mixed=allow_mixed,
            ours=ours,
            columns=given["cost"] or None,
            layout="sweep" if swept else DEFAULT,
            **swept,
        )
        own = {"options": options, "each": each, "cost": cost, "ours": ours}
        own |= {"bars": bars, "axes": axes}
        refuse_foreign(kind, [name for name, value in own.items() if value])
        style = Style(read_size(size), font, spread, bars, zero_shot, axes, across)
        table, _ = the_only(made.made, "a figure")
        own_sweep = made.display.swept or SweepOptions()
        return draw(table, FigureOptions(kind, style, given["cost"], own_sweep))

    @cached_property
    def _opened(self) -> Store:
        return Store(self.store.absolute())

    @cached_property
    def _outcomes(self) -> Outcomes:
        return Outcomes(self._opened)

    def _refuse_empty(self) -> None:
        if not self._records:
            raise DataMissingError(f"there is no record to compare in store '{self.store}'")

    def __repr__(self) -> str:
        counts = Counter[str](record.status for record in self._records)
        parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        count = "1 record" if len(self) == 1 else f"{len(self)} records"
        missing = f"; data missing: {', '.join(self.missing)}" if self.missing else ""
        return f"Results({count} of '{self.store}'{': ' if parts else ''}{parts}{missing})"

    def _repr_html_(self) -> str:
        from fewshot_bench.analysis.formats.page import text

        rows = "".join(
            f"<tr><td>{text(record.spec.describe())}</td><td>{text(record.status)}</td>"
            f"<td>{text(_outcome_text(record))}</td></tr>"
            for record in self._records[:_SHOWN]
        )
        more = len(self) - _SHOWN
        rest = f"<p>and {more:,} more</p>" if more > 0 else ""
        return (
            f"<p>{text(repr(self))}</p><table><thead><tr><th>cell</th><th>status</th><th>top-1</th>"
            f"</tr></thead><tbody>{rows}</tbody></table>{rest}"
        )


def load(store: str | PathLike[str] = DEFAULT_STORE) -> Results:
    """The results in a store; DataMissingError if it holds no readable record.

    >>> load("results").compare()
    """
    refuse("fewshot_bench.load")
    folder: Path = checked({"store": FOLDER}, {"store": store})["store"]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"store '{folder}' is not a folder; name a store's folder")
    records = _read(folder)
    if not records:
        what = "holds no readable record" if folder.exists() else "does not exist"
        raise DataMissingError(f"store '{folder}' {what}; make results with fewshot_bench.run")
    return Results(folder, {}, records, records)


def of_cells(folder: Path, cells: Collection[RunSpec], missing: Mapping[str, str]) -> Results:
    """The records of these cells of one run that a store has; a table of them is of all of them."""
    store = Store(folder.absolute())
    records = tuple(record for _, record in store.read_cells(cells) if record is not None)
    _warn_of_damage(store, 4)
    return Results(folder, dict(missing), records, records, allowed_by(cells))


def _read(folder: Path) -> tuple[Record, ...]:
    """All readable records; warns about damaged ones."""
    store = Store(folder.absolute())
    records = tuple(store.records()) if folder.is_dir() else ()
    _warn_of_damage(store, 4)
    return records


def _warn_of_damage(where: Outcomes | Store, level: int = 3) -> None:
    """Warn about each damaged file; `level` is the stack level of the warning."""
    for damage in where.damaged:
        warnings.warn(f"not used: {damage}", stacklevel=level)


def _outcome_text(record: Record) -> str:
    if record.status == "done":
        top1 = record.metrics.get("top1")
        return f"{top1:.2f} %" if isinstance(top1, int | float) else ""
    return str((record.error or {}).get("message") or "")


# Column name: field of `RunSpec`; some names differ.
_SPEC = {
    "method": "method",
    "method_version": "method_version",
    "dataset": "dataset",
    "target": "target",
    "classes": "classes",
    "shots": "shots",
    "seed": "train_seed",
    "split_seed": "split_seed",
    **{name: name for name in CONDITIONS},
    "revision": "revision",
    "picks": "picks",
}
_FOOTPRINT = ("trained", "stored", "peak_memory_mb", "images_seen", "steps")
_TIMINGS = ("billed_seconds", "elapsed_seconds")
HEADS = ("label", *_SPEC, "status", *METRICS, "n", *_FOOTPRINT, *_TIMINGS, "error", "key")


def _row(record: Record, metrics: Iterable[str]) -> dict[str, Any]:
    """A record as one row: specification, status, metrics, costs, error, options."""
    spec, error = record.spec, record.error or {}
    said = f"{error.get('type')}: {error.get('message')}" if error else None
    return {
        "label": spec.label,
        **{name: plain(getattr(spec, of)) for name, of in _SPEC.items()},
        "data": canonical_json(dict(spec.data)) if spec.data else "",
        "status": record.status,
        **{name: record.metrics.get(name) for name in (*metrics, "n")},
        **{name: record.footprint.get(name) for name in _FOOTPRINT},
        **{name: record.timings.get(name) for name in _TIMINGS},
        "error": said,
        "key": spec.key(),
        **{f"option.{name}": value for name, value in spec.options.items()},
    }
