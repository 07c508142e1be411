"""`cell`: what a method gets in one cell, by hand: in a notebook, for debugging.

Nothing of it is measured, guarded or stored, and the labels of the queries are in this process.
`pick_one` refuses a plan of several cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.author_frame import class_place
from fewshot_bench.api.backbone import Backbone
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.method import Method, RunContext, configuration
from fewshot_bench.api.method_code import name_of
from fewshot_bench.api.options import RUN_OPTIONS
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec, canonical_json, name_cell
from fewshot_bench.api.task import Images, Task, Vocabulary
from fewshot_bench.engines.asking import ask
from fewshot_bench.engines.library import ARGUMENTS
from fewshot_bench.runner.request import Plan, expand
from fewshot_bench.runner.variants import Configured
from fewshot_bench.utils.arguments import checked
from fewshot_bench.utils.errors import DataMissingError, UsageError, unknown
from fewshot_bench.utils.rng import derive
from fewshot_bench.utils.withheld import refuse

if TYPE_CHECKING:
    from torch import Tensor

# The arguments of `run` that `cell` takes under names of its own.
_OWN = {"methods": "method", "datasets": "dataset", "shots": "shots", "seeds": "seed"}
# The keywords of `run` that say which cell it is; a store has imported splits.
KEYWORDS = ("store",) + tuple(
    name
    for name, row in RUN_OPTIONS.items()
    if row.scope in ("condition", "plan") and name not in _OWN and name != "keep_split"
)


@dataclass(frozen=True)
class OpenCell:
    """One cell by hand, which unpacks to `task, backbone, ctx`: `method.fit(*cell)`.

    method: with its hyper-parameters. queries: for `classifier.logits`, in an order of their own.
    labels: (n,) class indices of the queries, on the CPU. vocabulary: the classes that the queries
    have; others than those of the task after `classes="new"` or with `transfer`, for
    `classifier.for_classes`. groups: batches of numbers among the queries, or the order of a
    stream; empty if each query is alone. spec: what a run would compute.

    >>> cell = fewshot_bench.cell("zero-shot", "digits", 4, 1)
    >>> classifier = cell.method.fit(*cell)
    >>> cell.accuracy(classifier.logits(cell.queries))
    """

    spec: RunSpec
    method: Method
    task: Task
    backbone: Backbone
    ctx: RunContext
    queries: Images
    labels: Tensor
    vocabulary: Vocabulary
    groups: tuple[tuple[int, ...], ...] = ()

    def __iter__(self) -> Iterator[Any]:
        """`task`, `backbone` and `ctx`, the arguments of `fit`."""
        return iter((self.task, self.backbone, self.ctx))

    def __repr__(self) -> str:
        """The cell in words."""
        return f"<cell {self.spec.describe()}>"

    def logits(self, classifier: Any) -> Tensor:
        """(n, classes) logits of all queries in their order, asked for as in a run.

        By batches, or as a stream: `cell.accuracy(cell.logits(classifier))`.
        """
        import numpy as np
        import torch

        from fewshot_bench.runner.evaluate import begin, divide

        queries: Any = self.queries
        groups, rows = self.groups or (range(len(queries)),), list[torch.Tensor]()
        with torch.no_grad():
            for parts in divide(queries, groups, self.spec.queries):
                rows += map(begin(classifier, self.spec.queries), parts)
        return torch.cat(rows)[np.argsort(np.concatenate(groups))]

    def accuracy(self, logits: Tensor) -> float:
        """Top-1 in percent of (n, classes) logits for all queries in their order."""
        return self.metrics(logits)["top1"]

    def metrics(self, logits: Tensor) -> dict[str, float | int]:
        """All metrics of (n, classes) logits for all queries in their order, as in a record.

        Bystanders, whose label is -1, are not scored. ContractError for logits of another shape, or
        that are not finite.
        """
        from fewshot_bench.api.metrics import Answers, rounded
        from fewshot_bench.runner.evaluate import plain_logits

        classes = len(self.vocabulary.classnames)
        array = plain_logits(logits, len(self.queries), classes, self.spec.precision)
        labels = self.labels.numpy()
        scored = labels >= 0
        return rounded(Answers.of(array[scored], labels[scored]))


def cell(
    method: str | type | object,
    dataset: str,
    shots: int | str,
    seed: int,
    *,
    device: str = "auto",
    **conditions: Any,
) -> OpenCell:
    """The arguments of `fit` in one cell, and its queries, here: for notebooks and debugging.

    method: as for `run`: a name, `path/to/file.py:Class`, a class or an object. conditions:
    keywords of `run` that say which cell it is, with the same defaults: `options`, `backbone`,
    `precision`, `protocol`, `val`, `prompts`, `classes`, `transfer`, `limit` and others.

    >>> task, backbone, ctx = cell("zero-shot", "digits", 4, 1)

    Nothing is stored, no process starts, and settings of torch stay. On a CPU, a method that draws
    from `ctx.rng` alone gets the numbers of a run. UsageError for unknown names, and if several
    cells are asked for.
    """
    from fewshot_bench.utils import determinism
    from fewshot_bench.utils.cache_dir import only_read, restore_sharing

    refuse("fewshot_bench.cell")
    for name in conditions:
        if name not in KEYWORDS:
            known = (*_OWN.values(), "device", *KEYWORDS)
            raise unknown("argument of cell()", name, known, "docs/how-to/debug-a-method.md")
    given = {"methods": method, "datasets": dataset, "shots": shots, "seeds": seed}
    values = checked(ARGUMENTS, {**given, "devices": device, **conditions})
    with ExitStack() as stack:
        stack.enter_context(restore_sharing())
        only_read()
        values["methods"] = [stack.enter_context(_register(each)) for each in values["methods"]]
        values.setdefault("store", Path(stack.enter_context(tempfile.TemporaryDirectory())))
        request = ask(values)
        spec = pick_one(expand(request), "cell()", _write_argument)
        stack.enter_context(determinism.restore())
        return _open(spec, request.devices[0], values["store"])


def _write_argument(name: str, value: Any) -> str:
    return f"{_OWN.get(name, name)}={value!r}"


@contextmanager
def _register(method: Any) -> Iterator[str | Configured]:
    """A name for a class or an object, which stands for it inside; names unchanged."""
    if isinstance(method, str):
        yield method
        return
    cls = method if isinstance(method, type) else type(method)
    entries, name = registry().methods.entries, name_of(cls)
    before = entries.get(name)
    entries[name] = Entry(name, cls, class_place(cls) or name)
    try:
        yield name if isinstance(method, type) else Configured(name, configuration(method))
    finally:
        del entries[name]
        if before is not None:
            entries[name] = before


def _open(spec: RunSpec, device: str, store: Path) -> OpenCell:
    """The cell of a specification; store: with its imported splits."""
    import torch

    from fewshot_bench.images.features import image_view
    from fewshot_bench.profiling.meter import Meter
    from fewshot_bench.runner.examiner import Examiner
    from fewshot_bench.runner.fit import Context, make_task, seed_of
    from fewshot_bench.runner.session import Session

    examiner = Examiner(store)
    session = Session(None, device, examiner)
    resolved = session.resolve(spec)
    backbone, _ = session.backbone(spec)
    meter = Meter(backbone.device)
    queries = session.source(resolved.lists.queries, spec)
    return OpenCell(
        spec,
        resolved.method,
        make_task(resolved, session, meter),
        backbone,
        # Eager steps: a breakpoint in a captured one would stop once.
        Context(
            *(seed_of(resolved), backbone.device, spec.precision),
            step="eager",
            cell=name_cell(spec),
        ),
        image_view(
            *(queries, session.features, meter),
            phase="encode_queries",
            seed=spec.train_seed,
            streams=derive(seed_of(resolved), "queries"),
        ),
        torch.tensor(examiner.query_labels(spec)),
        resolved.lists.evaluated,
        resolved.lists.groups,
    )


def pick_one(plan: Plan, who: str, word: Callable[[str, Any], str]) -> RunSpec:
    """The one cell of a plan; UsageError with the filters that leave one.

    word: writes an option of `RUN_OPTIONS` with a value. DataMissingError if there is none.
    """
    if not plan.cells:
        raise DataMissingError("; ".join((*plan.problems.values(), *plan.left_out.values())))
    if len(plan.cells) > 1:
        words = " ".join(word(name, value) for name, value in _list_filters(plan.cells))
        raise UsageError(f"{who} is one cell, and {len(plan.cells)} are asked for: add {words}")
    return plan.cells[0]


def _list_filters(cells: Sequence[RunSpec]) -> Iterator[tuple[str, Any]]:
    """(option of a run, value of the first cell) for everything by which cells differ."""
    first = cells[0]
    parts: Mapping[str, Callable[[RunSpec], Any]] = {
        "methods": lambda cell: cell.method,
        "datasets": lambda cell: cell.dataset,
        "shots": lambda cell: cell.shots,
        "seeds": lambda cell: cell.train_seed,
        "classes": lambda cell: cell.classes,
        "transfer": lambda cell: cell.target,
    }
    for name, read in parts.items():
        if len({read(cell) for cell in cells}) > 1:
            yield name, read(first)
    for name in first.options:
        values = [cell.options.get(name) for cell in cells if cell.method == first.method]
        if len({canonical_json(value) for value in values}) > 1:
            yield "options", f"{name}={first.options[name]}"
