"""Python API: `run` computes the same as `fsbench run`, and returns `Results`.

Names are checked before anything trains. However a run ends, the records that it has stored stay,
and the same call resumes with the missing cells.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api import code_closure, method_code, own_methods
from fewshot_bench.api.method import configuration
from fewshot_bench.api.options import LOCAL, RUN_OPTIONS, RunOption
from fewshot_bench.api.registry import hosting, registry
from fewshot_bench.api.spec import ALL_SHOTS, ALONE, AUTO, BY_TEMPLATES, DEFAULT_STORE, WORD
from fewshot_bench.engines.asking import ask, options_of_all_engines
from fewshot_bench.engines.matrix import RunOutcome, run_matrix
from fewshot_bench.engines.reporting import CallReporter
from fewshot_bench.engines.session_methods import digest_class, reference
from fewshot_bench.runner.variants import Configured, Option
from fewshot_bench.utils import offline
from fewshot_bench.utils.arguments import (
    FLAG,
    FOLDER,
    TEXTS,
    Kind,
    checked,
    names,
    number,
    optional,
    several,
    text,
    whole,
    wholes,
    word,
)
from fewshot_bench.utils.errors import DataMissingError, unknown
from fewshot_bench.utils.text import SIZES, read_size, split_names
from fewshot_bench.utils.withheld import refuse

if TYPE_CHECKING:
    from fewshot_bench.analysis.results import Results

Names = str | Sequence[str]
Own = str | os.PathLike[str] | Sequence[str] | Mapping[str, str]
Methods = str | type | object | Sequence[str | type | object]


def run(
    methods: Methods,
    datasets: Names,
    *,
    shots: int | str | Sequence[int | str] = (1, 2, 4, 8, 16),
    seeds: int | Sequence[int] = (1, 2, 3),
    split_seed: int | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
    backbone: str = AUTO,
    precision: str = AUTO,
    protocol: str = "fair",
    val: str | None = None,
    prompts: str | None = None,
    classes: Names = "all",
    transfer: Names = (),
    classnames: Own | None = None,
    templates: Names = (),
    holdout: float | None = None,
    exif: str = AUTO,
    published: bool = False,
    augment: str = "host",
    queries: str = ALONE,
    views: int = 1,
    bystanders: str = "none",
    texts: str | os.PathLike[str] = BY_TEMPLATES,
    pooling: str | None = None,
    skip_damaged: bool = False,
    limit: int | None = None,
    store: str | os.PathLike[str] = DEFAULT_STORE,
    engine: str = LOCAL,
    devices: Names = AUTO,
    jobs: int | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    hang_after: float | None = None,
    lease: float | None = None,
    feature_budget: int | str | None = None,
    step: str = "auto",
    deterministic: bool = False,
    keep_logits: str | None = None,
    keep_models: bool = False,
    keep_split: str = "store",
    dry_run: bool = False,
    force: bool = False,
    retry_failed: bool = False,
    keep_stale: bool = False,
    traceback: bool = False,
    verbose: int = 0,
    progress: bool | None = None,
    **declared: Any,
) -> Results:
    """Run all cells of a matrix (methods, data sets, ...) that the store lacks; return all cells.

    Arguments are the options of `fsbench run` (docs/reference/options.md), with the same defaults
    and meanings. Arguments with several values accept one value or a list.

    methods: names, `all`, `path/to/file.py:Class`, classes, or objects, whose fields are the
        hyper-parameters. A class may be defined in a notebook or a script: its source is kept in
        the store.
    options: hyper-parameters of methods given by name or class, `{"rank": [2, 4]}` or
        `{"clip-lora.rank": 4}`; several values expand the matrix.
    published: the values of each method's authors for a data set and shots, in place of one setting
        for all; `options` win.
    classnames: a list, a mapping of old names to new ones, or a file of either.
    progress: None or True shows progress on stderr or in the notebook; False hides it. verbose: 1
        also shows what methods print and log, live; 2 their DEBUG messages, too.
    jobs: workers on each device. feature_budget: bytes, or "20GB". keep_logits: `all`, `top` or
        `none`; None: all logits of cells that are not large.
    declared: options of engines and plug-ins, such as `track` or `partition` (`fsbench run
        --help`, `fsbench show slurm`).

    >>> run("zero-shot", "digits", shots=[1, 4], seeds=1, progress=False).compare()

    A failed cell gives a record with the status `failed`, and a warning. Raises UsageError for
    unknown or conflicting values, DataMissingError if none of the requested data sets can be used
    (if some can, the others give a warning and `Results.missing`), and other subclasses of
    FsbenchError. KeyboardInterrupt ends the workers; call again to resume.
    """
    values = {name: value for name, value in locals().items() if name != "declared"} | declared
    refuse("fewshot_bench.run")
    given = checked(ARGUMENTS, values)
    method_code.refuse_run_during_import()
    offline.enforce_if_asked()
    method_code.refresh()
    folder: Path = given["store"]
    with hosting():
        own = {name: given[name] for name in declared if name not in RUN_OPTIONS}
        _refuse_unknown(own)
        asked = given | {"methods": _refer_to(given["methods"], folder)}
        request = ask({name: asked.get(name) for name in RUN_OPTIONS}, own)
        reporter = CallReporter(progress)
        _warn_of_edits(asked["methods"], given["methods"], reporter)
        outcome = run_matrix(request, reporter)
    return _results(outcome, folder)


def _results(ended: RunOutcome, folder: Path) -> Results:
    """The plan's records; KeyboardInterrupt after an interrupt, DataMissingError if no data."""
    from fewshot_bench.analysis.results import of_cells

    if ended.interrupted:
        raise KeyboardInterrupt
    missing, cells = ended.plan.problems, ended.plan.cells
    results = of_cells(folder, cells, missing)
    usable = any(not {cell.dataset, cell.target} & set(missing) for cell in cells)
    if missing and not (usable or len(results)):
        raise DataMissingError("; ".join(missing.values()))
    return results


def _warn_of_edits(
    references: Iterable[str | Configured], asked: Iterable[Any], reporter: CallReporter
) -> None:
    """Warn about classes edited since their import here: workers import the new code."""
    plugins = registry()
    for given, method in zip(asked, references, strict=True):
        name = method if isinstance(method, str) else method.method
        if isinstance(given, str) and not plugins.methods.entries.get(name):
            # A suite, or a file: what runs is what is read now.
            continue
        cls = given if isinstance(given, type) else type(given)
        if isinstance(given, str):
            cls = imported = plugins.method_class(name)
        elif entry := plugins.methods.entries.get(name):
            imported = entry.load()
        elif own_methods.read_kept(name):
            continue
        else:
            imported = method_code.load(name)
        if code_closure.is_edited(imported.__module__):
            reporter.warning(
                f"the code of {name} was edited since this process imported it: cells run with "
                "the new one, their hyper-parameters are those of the old one (start Python anew)"
            )
        elif cls is not imported and digest_class(cls) != digest_class(imported):
            reporter.warning(
                f"{inspect.getfile(imported)} was edited since this process imported "
                f"{cls.__module__}: cells run with the new {cls.__name__} (reload the module, or "
                "start Python anew)"
            )


def list_methods(suite: str | None = None) -> list[str]:
    """The method names that `run` accepts, or only those of one suite (`fast`, ...).

    >>> list_methods("fast")[0]
    """
    catalog = registry().methods
    if _read_suite(suite) is None:
        return catalog.names()
    if suite not in catalog.suites():
        raise unknown("suite of methods", str(suite), catalog.suites(), "fsbench list methods")
    return catalog.suites()[suite]


def list_datasets(suite: str | None = None) -> list[str]:
    """The data set names that `run` accepts, including `FAMILY:`, or only those of one suite.

    >>> list_datasets("demo")
    ['digits', 'letters', 'shapes']
    """
    name, plugins = _read_suite(suite), registry()
    return plugins.datasets.names() if name is None else plugins.expand_datasets([name])


def _read_suite(suite: Any) -> str | None:
    name: str | None = checked({"suite": optional(text("a name"))}, {"suite": suite})["suite"]
    return name


def list_backbones() -> list[str]:
    """The names of registered backbones; `run` also accepts open_clip names (`MODEL/TAG`).

    >>> list_backbones()
    ['tiny']
    """
    return registry().backbones.names()


def _refer_to(asked: Iterable[Any], store: Path) -> tuple[str | Configured, ...]:
    """Names unchanged; classes as file references; objects as a reference with their values."""
    references: list[str | Configured] = []
    for method in asked:
        if isinstance(method, str):
            references.append(method)
        elif isinstance(method, type):
            references.append(reference(method, store))
        else:
            # Objects that are no dataclasses are refused later, like broken plug-ins.
            values = configuration(method) if dataclasses.is_dataclass(method) else {}
            references.append(Configured(reference(type(method), store), values))
    return tuple(references)


def _refuse_unknown(names: Iterable[str]) -> None:
    """UsageError for an argument that is neither of `run` nor declared by a plug-in."""
    declared = {option.key for option in options_of_all_engines()}
    for entry in registry().engines.entries.values():
        declared |= {option.key for option in entry.options}
    for name in names:
        if name not in declared:
            registry().options.refuse_conflict(name.replace("_", "-"))
            own = [name for name in inspect.signature(run).parameters if name != "declared"]
            raise unknown("argument of run()", name, [*own, *declared], "docs/reference/python.md")


def _read_shots(value: Any) -> int:
    return ALL_SHOTS if value in (WORD, ALL_SHOTS) else whole(1).read(value)


def _read_methods(value: Any) -> tuple[Any, ...]:
    single = isinstance(value, str | type) or callable(getattr(value, "fit", None))
    given = (value,) if single else value
    methods = tuple(
        part for each in given for part in (split_names(each) if isinstance(each, str) else (each,))
    )
    if not methods:
        raise ValueError
    return methods


def _read_options(value: Any) -> tuple[Option, ...]:
    name, values = text("").read, several("", lambda each: each)
    if isinstance(value, Mapping):
        return tuple((name(key), values.read(given)) for key, given in value.items())
    return tuple(several("", name, 0).read(value))


_KINDS: Mapping[str, Callable[[RunOption], Kind]] = {
    "methods": lambda row: Kind("at least one name, class or object of a method", _read_methods),
    "names": lambda row: names(row.names, int(row.least)),
    "shots": lambda row: several(f"whole numbers from 1, or '{WORD}'", _read_shots),
    "numbers": lambda row: wholes(int(row.least)),
    "number": lambda row: whole(int(row.least)),
    "limit": lambda row: whole(int(row.least)),
    "count": lambda row: whole(int(row.least), row.most),
    "repeats": lambda row: whole(0),
    "settings": lambda row: Kind(
        "a mapping such as {'rank': 4}, or texts such as 'rank=4'", _read_options
    ),
    "texts": lambda row: several("prompts or files of them", text("").read, 0),
    "text": lambda row: text("a name"),
    "word": lambda row: text("a name") if row.scope == "condition" else word(*row.words),
    "flag": lambda row: FLAG,
    "store": lambda row: FOLDER,
    "share": lambda row: number("a number between 0 and 1", lambda share: 0 < share < 1),
    "above": lambda row: number(
        f"a number of seconds above {row.least:g}", lambda value: value > row.least
    ),
    "seconds": lambda row: number(
        f"a number of seconds from {row.least:g}", lambda value: value >= row.least
    ),
    "size": lambda row: Kind(SIZES, read_size),
}


# Every argument of `run` except `classnames` and options declared by engines and plug-ins, with the
# kind of its values. The plan checks names and combinations.
ARGUMENTS = {name: _KINDS[row.kind](row) for name, row in RUN_OPTIONS.items() if row.kind != "own"}
ARGUMENTS["texts"] = TEXTS
ARGUMENTS |= {"progress": optional(FLAG)} | {
    name: optional(kind)
    for name, kind in ARGUMENTS.items()
    if RUN_OPTIONS[name].default is None and not RUN_OPTIONS[name].required
}
