"""`fsbench sweep`: run a method under many options, and draw them.

A sweep keeps its cells in a separate store, apart from the results used in tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fewshot_bench.analysis.filters import Shown, split_version, version_key
from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.method_files import short
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.api.registry import KEPT_SPLITS, registry
from fewshot_bench.api.spec import AUTO, CONDITIONS, NO_CLASSES, PRESETS, canonical_json
from fewshot_bench.api.split_file import MAX_BYTES
from fewshot_bench.cli.completion import datasets, methods, one_of, several_of, suites
from fewshot_bench.cli.engines import RunCommand, split_values
from fewshot_bench.cli.filters import listed, read_records
from fewshot_bench.cli.options import NAMES, MetricName, format_option, output_option
from fewshot_bench.cli.output import (
    check_file,
    drawn,
    terminal_width,
    warn,
    write_bytes,
    write_text,
)
from fewshot_bench.cli.panels import list_option
from fewshot_bench.cli.run import TerminalReporter, run_request
from fewshot_bench.cli.run import command as run
from fewshot_bench.engines.asking import device_kind, read_request, settle
from fewshot_bench.engines.matrix import INTERRUPTED
from fewshot_bench.runner.own_data import read_own_data
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.files import read_regular, write_whole
from fewshot_bench.utils.spelling import spelled_once
from fewshot_bench.utils.text import few, option_name

if TYPE_CHECKING:
    from fewshot_bench.analysis.sweep.build import Axis, Sweep
    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec


# The store of sweeps within a store of results.
SWEEPS = "sweeps"
Test = Callable[["RunSpec"], bool]


@dataclass(frozen=True)
class Axes:
    """A method, its swept options, those with one value, and every configuration.

    `configurations`: pairs of version and options as canonical JSON, as in records; `published`:
    those of records with published values, with overrides alone. version: a requested version
    other than the installed one, matched by overrides only; else empty.
    """

    method: str
    swept: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    configurations: frozenset[tuple[str, str]]
    published: frozenset[tuple[str, str]]
    version: str = ""


def sweep_axes(method: str, options: Sequence[str]) -> Axes:
    """The axes of a sweep, checked by the method; UsageError if no option has several values.

    method: a name, or NAME@VERSION for results of a version that is not the installed one.
    """
    from fewshot_bench.analysis.sweep.build import Axis
    from fewshot_bench.runner.variants import expand_methods, published_overrides

    known = registry()
    method, version = split_version(method)
    variants = expand_methods((method,), options, known)
    if version in ("", variants[0].version):
        version = ""
    defaults = {field.name: field.default for field in hyperparameters(known.method_class(method))}
    names = [option.partition("=")[0].strip().rpartition(".")[2] for option in options]
    names = list(dict.fromkeys(name.replace("-", "_") for name in names))
    values = {name: tuple(dict.fromkeys(v.options[name] for v in variants)) for name in names}
    swept = tuple(Axis(n, found, defaults[n]) for n, found in values.items() if len(found) > 1)
    if not swept:
        raise UsageError(
            f"nothing varies in {' '.join(options)}: expected an option with several values, such "
            "as -o rank=1,2,4"
        )
    fixed = {n: found[0] for n, found in values.items() if len(found) == 1}
    fixed = {name: value for name, value in fixed.items() if value != defaults[name]}
    configurations = frozenset(
        (version, canonical_json(dict(v.overrides)))
        if version
        else (v.version, canonical_json(dict(v.options)))
        for v in variants
    )
    cls = known.method_class(method)
    published = frozenset(
        (version or v.version, canonical_json(published_overrides(v, cls))) for v in variants
    )
    return Axes(variants[0].method, swept, fixed, configurations, published, version)


def own_store(store: Path) -> Path:
    """The separate store for the sweeps of a store."""
    return store if store.name == SWEEPS else store / SWEEPS


def _records(store: Path) -> tuple[list[Record], set[str]]:
    """Records of the sweep store and of the store itself, each cell once: with a result if any.

    And the keys of cells with different results in the two: those of the sweep store are taken.
    """
    folders = dict.fromkeys(folder for folder in (own_store(store), store) if folder.exists())
    found: dict[str, Record] = {}
    unlike: set[str] = set()
    for folder in folders or (store,):
        for record in read_records(Store(folder)) if len(folders) < 2 else listed(Store(folder)):
            first = found.setdefault(record.spec.key(), record)
            if first.status == "failed" != record.status:
                found[record.spec.key()] = record
            elif first.status == record.status and _differ(first.metrics, record.metrics):
                unlike.add(record.spec.key())
    return list(found.values()), unlike


def _differ(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """True if a metric that both have is another one."""
    return any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys())


def chosen_records(axes: Axes, values: Mapping[str, Any], given: set[str]) -> Shown:
    """The records of these configurations that match the given options.

    values: options of `fsbench run` by name, and their `request`. DataMissingError if no record
    matches.
    """
    every, unlike = _records(values["store"])
    records = [record for record in every if record.spec.method == axes.method]
    mine = [record for record in records if _belongs(record.spec, axes)]
    tests = [test for name in sorted(given) for test in _tests(name, values)]
    found = [record for record in mine if all(test(record.spec) for test in tests)]
    if not found:
        instead = _instead(axes, records, mine)
        raise DataMissingError(
            f"store '{values['store']}' has no result of this sweep: {instead}; run it "
            "with --dataset NAMES, or name another --store"
        )
    twice = len(unlike & {record.spec.key() for record in found})
    if twice:
        store = values["store"]
        warn(
            f"{twice} {'cell has' if twice == 1 else 'cells have'} another result in {store} than "
            f"in {own_store(store)}: the latter is drawn (fsbench store rm removes a record)"
        )
    return Shown(found, tuple(_others(axes, records)))


def with_metric(records: Sequence[Record], metric: Metric, store: Path) -> list[Record]:
    """The records with a metric that they lack, if one of the two stores has their answers.

    Records lack metrics of plug-ins, and built-in ones that came later than they did.
    """
    from fewshot_bench.store.predictions import Outcomes

    for folder in dict.fromkeys((own_store(store), store)):
        outcomes = Outcomes(Store(folder), [metric] if metric.source else [])
        records = outcomes.completed(records, [metric.name])
        for damage in outcomes.damaged:
            click.echo(f"not used: {damage}", err=True)
    for text in outcomes.lacking(records, [metric.name]):
        warn(text)
    return list(records)


def _others(axes: Axes, records: Sequence[Record]) -> Iterator[str]:
    """A note on each version that is not drawn."""
    here = {version for version, _ in axes.configurations}
    counts = Counter(record.spec.method_version for record in records)
    for version in sorted(set(counts) - here, key=version_key):
        name = short(axes.method)
        drawn = shlex.quote(f"{name}@{version}")
        yield (
            f"version {', '.join(here)} of {name} is drawn; the store has {counts[version]:,} "
            f"records of version {version} (fsbench sweep {drawn} draws them)"
        )


def _instead(axes: Axes, records: Sequence[Record], mine: Sequence[Record]) -> str:
    """A text on records of the store that match the request only in part."""
    if mine:
        return f"{len(mine)} records of it, none under the other options given"
    if not records:
        return f"no record of {axes.method}"
    here = {version for version, _ in axes.configurations}
    other = sorted({record.spec.method_version for record in records} - here, key=version_key)
    older = ""
    if other:
        step = f"fsbench sweep {shlex.quote(f'{axes.method}@{other[-1]}')} draws what is there"
        older = f"; of version {', '.join(other)}, and here it is {', '.join(here)} ({step})"
    labels = few(sorted({record.spec.label for record in records}))
    return f"its {len(records)} records of {axes.method} have other options ({labels}){older}"


def _belongs(spec: RunSpec, axes: Axes) -> bool:
    named = spec.published or bool(axes.version)
    options = canonical_json(dict(spec.overrides if named else spec.options))
    known = axes.published if spec.published else axes.configurations
    return (spec.method_version, options) in known


def _tests(name: str, values: Mapping[str, Any]) -> list[Test]:
    """Predicates on cells for an option of `fsbench run`; empty if it does not restrict them."""
    value: Any = values.get(name)
    if name == "datasets":
        names = _datasets(value)
        return [lambda spec: spec.dataset in names]
    if name == "classes" and NO_CLASSES in value:
        return [lambda spec: bool(spec.target)]
    if name in ("shots", "classes"):
        return [lambda spec: getattr(spec, name) in value]
    if name == "seeds":
        return [lambda spec: spec.train_seed in value]
    if name == "split_seed":
        return [lambda spec: spec.split_seed == (spec.train_seed if value is None else value)]
    if name == "transfer":
        targets = _datasets(value or ())
        return [lambda spec: not spec.target or spec.target in targets]
    if name == "devices":
        kind = device_kind(values["request"])
        return [lambda spec: spec.device == kind]
    if name == "protocol":
        return _protocol(values)
    if name in CONDITIONS:
        # An option that was not given is determined by the protocol.
        unasked = value is None and CONDITIONS[name].default is not None
        return [] if unasked else [lambda spec: getattr(spec, name) == value]
    if name in ("classnames", "templates", "holdout"):
        data = read_own_data(values["classnames"], values["templates"], values["holdout"])
        return [lambda spec: {n: v for n, v in spec.data.items() if n != SKIPPED} == data]
    if name == "skip_damaged" and not value:
        return [lambda spec: SKIPPED not in spec.data]
    return []


def _datasets(names: Sequence[str]) -> set[str]:
    """Data set names with suites expanded, and paths also as spelled in records."""
    # Names of data sets that only the store contains are kept as they are.
    suites = registry().datasets.suites()
    listed = {one for name in names for one in suites.get(name, [name])}
    return listed | {spelled_once(name) for name in listed}


def _protocol(values: Mapping[str, Any]) -> list[Test]:
    """Predicates for `--protocol`; a preset sets sampling, validation and prompts."""
    name = values["protocol"]
    if name not in PRESETS:
        return [lambda spec: spec.protocol == name]
    sampling, val, prompts = PRESETS[name]
    expected = (sampling, values["val"] or val, values["prompts"] or prompts)
    return [lambda spec: (spec.protocol, spec.val, spec.prompts) == expected]


FIGURES = (".svg", ".png", ".pdf")
TEXTS = {".csv": "csv", ".json": "json"}
FORMATS = ("terminal", "csv", "json")
WIDTH = 120
# Options of `fsbench run` that choose among results; the others only concern what is run.
SELECTING = {
    *("shots", "classes", "seeds", "split_seed", "transfer", "devices", "store", "traceback"),
    *("classnames", "templates", "holdout", "skip_damaged", *CONDITIONS),
}
# Options of `fsbench run` that the sweep redefines or does not need.
_OWN = ("methods", "datasets", "options", "config", "save_config")


def _is_drawn(metric: Metric) -> bool:
    return metric.unit == PERCENT and metric.higher_is_better


DRAWN = MetricName("a sweep draws metrics in percent of which more is better", _is_drawn)


@click.command(
    "sweep", cls=RunCommand, short_help="Ablations: run a method under many options and draw them."
)
@click.argument("method", shell_complete=one_of(methods))
@click.option(
    "--option",
    "-o",
    multiple=True,
    required=True,
    metavar="NAME=VALUE[,VALUE]",
    help="Several values are swept: columns, then rows, then panels, in this order.",
)
@list_option(
    "--dataset",
    "-d",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    help="Run on these first; left out, only the store is drawn.",
)
@click.option("--only-existing", is_flag=True, help="Run nothing, draw what the store has.")
@click.option("--metric", type=DRAWN, default="top1", show_default=True, help="Drawn.")
@click.option("--each", is_flag=True, help="Draw every data set beside the average.")
@format_option(FORMATS, "How to write it to the terminal.")
@output_option("Also draw to FILE: .svg, .png, .pdf, .csv or .json.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    method: str,
    option: tuple[str, ...],
    dataset: tuple[str, ...] | None,
    only_existing: bool,
    metric: str,
    each: bool,
    form: str,
    output: Path | None,
    **values: Any,
) -> None:
    """Ablations: run METHOD under every combination of options, and draw the results.

    With --dataset, cells that are not done yet are run as by fsbench run, and kept in STORE/sweeps,
    apart from the results that tables are made of; both are drawn. Two options give heat maps, one
    gives a curve, more give a panel for each combination. Missing cells are shown as such.

    Exit code: 0; 1 some cells failed; 2 wrong usage; 3 data missing, or nothing to draw.
    """
    _check_output(output)
    axes = sweep_axes(method, option)
    runs = dataset is not None and not only_existing
    code = 0
    if runs and axes.version:
        raise UsageError(
            f"{method}: only the installed version can be run; leave --dataset out, or add "
            "--only-existing"
        )
    own, declared = split_values(values)
    own |= {"methods": (method,), "datasets": dataset or (), "options": option}
    request = read_request(own | {"store": own_store(values["store"])}, declared)
    asked = values | {"datasets": dataset, "request": request}
    if runs:
        split = _one_split(values["store"], request.store, values["dry_run"])
        with _apart(form), TerminalReporter("sweep") as reporter, split:
            request = settle(request)
            asked |= {"backbone": request.backbone, "precision": request.precision}
            code = run_request(request, reporter)
        if code == INTERRUPTED or values["dry_run"]:
            ctx.exit(code)
    given = {name for name in values if _is_given(ctx, name) and values[name] != AUTO}
    of_runs = {str(option.name) for option in run.params} - SELECTING - {*_OWN}
    idle = sorted(name for name in of_runs if _is_given(ctx, name))
    if not runs and idle:
        raise UsageError(
            f"{option_name(idle[0])} has no effect where nothing is run: give --dataset without "
            "--only-existing, or leave it out"
        )
    if runs:
        given = set(asked)
    elif dataset is not None:
        given.add("datasets")
    records, others, _ = chosen_records(axes, asked, given)
    from fewshot_bench.analysis.sweep.build import build

    known = registry().metric(metric)
    records = with_metric(records, known, values["store"])
    found = build(axes.method, axes.swept, records, fixed=axes.fixed, metric=known, each=each)
    found = dataclasses.replace(found, notes=(*others, *found.notes))
    _write(found, form, output)
    ctx.exit(code)


command.params += [option for option in run.params if option.name not in _OWN]


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _apart(form: str) -> Any:
    """Redirect the messages of a run to stderr, so that they do not mix with CSV or JSON."""
    return (
        contextlib.nullcontext() if form == "terminal" else contextlib.redirect_stdout(sys.stderr)
    )


@contextlib.contextmanager
def _one_split(store: Path, sweeps: Path, dry_run: bool) -> Iterator[None]:
    """Run on the splits of own images that the store keeps, and keep new ones in both stores.

    Otherwise the cells of the two could not be drawn together once images were added.
    """
    if not dry_run:
        _share_splits(store, sweeps)
    try:
        yield
    finally:
        if not dry_run:
            _share_splits(sweeps, store)


def _share_splits(source: Path, target: Path) -> None:
    for path in sorted((source / KEPT_SPLITS).glob("*.json")):
        copy = target / KEPT_SPLITS / path.name
        try:
            if not copy.exists():
                write_whole(copy, read_regular(path, MAX_BYTES))
        except OSError as error:
            raise Store(target).cannot_write(copy, error) from error


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    check_file("--output", output, (*FIGURES, *TEXTS))


def _write(sweep: Sweep, form: str, output: Path | None) -> None:
    write_text(None, _text(sweep, form))
    if output is None:
        return
    suffix = output.suffix.lower()
    if suffix in FIGURES:
        from fewshot_bench.analysis.sweep.figure import draw

        write_bytes(output, drawn(lambda: draw(sweep, suffix[1:]), suffix))
    else:
        write_text(output, _text(sweep, TEXTS[suffix]))


def _text(sweep: Sweep, form: str) -> str:
    from fewshot_bench.analysis import formats
    from fewshot_bench.analysis.sweep.render import document, render

    if form == "terminal":
        width = terminal_width()
        return render(sweep, styled=width is not None, width=width or WIDTH)
    return formats.render(document(sweep), form)
