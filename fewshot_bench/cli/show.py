"""`fsbench show`: a method, a data set's card, a metric, options, or a record."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import click

from fewshot_bench.api import method_code
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.dataset import ROLES, TEMPLATE_SETS, Dataset
from fewshot_bench.api.defaults import full_name
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.method_rules import find_broken_rules
from fewshot_bench.api.metrics import BUILT_IN, OF_STREAMS
from fewshot_bench.api.paper import Paper
from fewshot_bench.api.registry import is_place, place_without_family, registry
from fewshot_bench.backbones.papers import papers_of_weights
from fewshot_bench.cli.completion import (
    backbones,
    datasets,
    engines,
    methods,
    metrics,
    one_of,
    options,
)
from fewshot_bench.cli.options import store_option
from fewshot_bench.cli.output import say, warn
from fewshot_bench.cli.panels import option
from fewshot_bench.utils.errors import ContractError, DataMissingError, FsbenchError, unknown

_NAMES = (methods, datasets, backbones, engines, metrics, options)


@click.command("show", short_help="Show a method's hyper-parameters or a data set's card.")
@click.argument("name", shell_complete=one_of(*_NAMES))
@store_option()
@option("--log", is_flag=True, help="Of a record (file or key): what its method printed.")
def command(name: str, store: Path, log: bool) -> None:
    """Show a method's hyper-parameters or a data set's card.

    NAME may also be a backbone, a metric, an engine, an option of a plug-in, or a record's file
    (NAME.json): its result, or why its cell failed.
    """
    if log:
        _show_log(name, store)
        return
    plugins = registry()
    for catalog in plugins.catalogs:
        if name not in BUILT_IN:
            catalog.refuse_conflict(name)
    family = f"{name.partition(':')[0]}:"
    if name in plugins.methods.entries or method_code.is_meant(name):
        _show_method(name)
    elif name in plugins.datasets.entries or (":" in name and family in plugins.datasets.entries):
        _show_dataset(name, store)
    elif name in plugins.backbones.entries:
        entry = plugins.backbones.entries[name]
        say(f"{name}: backbone, registered by {entry.origin}")
        _show_papers(entry.papers)
    elif name in plugins.engines.entries:
        entry = plugins.engines.entries[name]
        where = "other machines" if entry.elsewhere else "this machine"
        say(f"{name}: engine, computes cells on {where}, registered by {entry.origin}")
        _show_options(entry)
    elif name in BUILT_IN or name in plugins.metrics.entries:
        _show_metric(name)
    elif name in plugins.options.entries:
        entry = plugins.options.entries[name]
        say(f"{name}: option of commands that run cells, registered by {entry.origin}")
        _show_options(entry)
    elif name.endswith(".json"):
        _show_record(name, store)
    elif is_place(name):
        raise place_without_family(name)
    elif papers := papers_of_weights(full_name(name)):
        say(f"{full_name(name)}: backbone, a model and weights of open_clip")
        _show_papers(papers)
    elif not _show_own_method(name, store):
        names = [name for catalog in plugins.catalogs for name in catalog.entries]
        step = "fsbench list methods, fsbench list datasets"
        raise unknown("name", name, names, "; ".join([step, *plugins.methods.failed]))


def _show_own_method(name: str, store: Path) -> bool:
    """Show the versions of a method of a file in a store; False if there are none. Runs nothing."""
    from fewshot_bench.store.kept_methods import list_methods

    found = [(folder, facts) for folder, facts in list_methods(store) if facts.name == name]
    for folder, facts in sorted(found, key=lambda each: each[1].run):
        say(f"{name}@{facts.version}: {facts.kind} in {folder / facts.file}")
    if found:
        say(f"the last one is what fsbench run -m {name} --store {shlex.quote(str(store))} runs")
    return bool(found)


def _show_method(name: str) -> None:
    cls = registry().method_class(name)
    title, version = name, str(getattr(cls, "version", "1"))
    if method_code.is_meant(name):
        with suppress(FsbenchError):
            own = registry().own_method(name)
            title, version = own.name, own.version
    say(f"{title} (version {version})")
    say(f"{inspect.cleandoc(cls.__doc__ or '')}\n")
    broken = find_broken_rules(cls, name)
    for rule in broken:
        warn(rule.reason)
    if broken:
        warn(f"fsbench run refuses {name}; fsbench check {shlex.quote(name)}")
    try:
        card = card_of(cls)
    except ContractError as error:
        card = None
        warn(str(error))
    for line in [*card.lines(), ""] if card else ():
        say(line)
    if dataclasses.is_dataclass(cls):
        _show_hyperparameters(cls)
    origin = registry().method(name).origin
    say(f"from {origin}" if method_code.is_meant(name) else f"registered by {origin}")


def _show_metric(name: str) -> None:
    plugins = registry()
    metric = plugins.metric(name)
    origin = plugins.metrics.entries[name].origin if name not in BUILT_IN else "fsbench itself"
    say(f"{name}: metric, {metric.title}, registered by {origin}")
    facts = {
        "unit": metric.unit or "none",
        "better": "higher" if metric.higher_is_better else "lower",
        "digits": metric.digits,
        "difference": "tested on paired images" if metric.scores else "not tested",
    }
    for label, text in facts.items():
        say(f"  {label:<10} {text}")


def _show_options(entry: Entry) -> None:
    for own in entry.options:
        value = "" if own.flag else f" = {own.default!r}"
        say(f"  --{own.name}{value}")
        say(f"      {own.help}{f' [env: {own.env}]' if own.env else ''}")


def _show_hyperparameters(cls: type) -> None:
    try:
        fields = hyperparameters(cls)
    except (Exception, SystemExit):
        # The reason was printed with the broken rules.
        return
    say("hyper-parameters (set with -o name=value):")
    for field in fields:
        unit = f" {field.unit}" if field.unit else ""
        missing = field.default is dataclasses.MISSING
        shown = str(field.default) if isinstance(field.default, Path) else repr(field.default)
        default = "(no default)" if missing else f"= {shown}{unit}"
        say(f"  {field.name} {default}   [{field.type_name}]")
        if field.help:
            say(f"      {field.help}")
        if field.source:
            say(f"      source: {field.source}")


def _show_record(name: str, store: Path) -> None:
    """Print the result of a cell, or the reason for its failure with the full traceback."""
    from fewshot_bench.engines.reporting import outcome, reasons, trace_lines
    from fewshot_bench.store.log_files import LOG
    from fewshot_bench.store.store import find

    record = find(name, store).record
    say(outcome(record))
    for reason in reasons([record]):
        if reason.frame:
            say(f"      at {reason.frame}")
        say("\n".join(trace_lines(reason)))
    ends = [
        f"{m.short} {m.text(record.metrics[n])} %"
        for n, m in OF_STREAMS.items()
        if n in record.metrics
    ]
    if ends:
        say(f"  stream     {', '.join(ends)}")
    if LOG in record.digests:
        say(f"  log        fsbench show {shlex.quote(name)} --log")
    for violation in record.footprint.get("violations") or ():
        say(f"  violation  {violation}, against its card")
    for incident in record.incidents:
        say(f"  incident   {incident.get('kind')}: {incident.get('text')}")


def _show_log(name: str, store: Path) -> None:
    """Print what the code of a record's cell printed, logged and warned of."""
    from fewshot_bench.store.log_files import read_log
    from fewshot_bench.store.store import find

    kept = find(name, store)
    text = read_log(kept.path, kept.record)
    if text:
        say(text.removesuffix("\n"))
    else:
        warn(f"{kept.record.spec.describe()}: its method printed nothing")


def _show_dataset(name: str, store: Path) -> None:
    from fewshot_bench.splits.published import Lists, compare_lists

    try:
        dataset: Dataset = registry().dataset(name, store=store)
        card, pools = dataset.card(), dataset.items()
    except DataMissingError as error:
        raise DataMissingError(f"{name}: not available: {error}") from error
    names = list(card.classnames)
    first = ", ".join(names if len(names) <= 12 else [*names[:11], "..."])
    say(f"{card.name}: {card.title}")
    say(f"  classes    {len(names)}: {first}")
    for role in ROLES:
        count = len(pools.get(role, ()))
        expected = card.expected_counts.get(role, count)
        other = f" (the published set has {expected}: this copy differs)"
        say(f"  {role:<10} {count} images{other if expected != count else ''}")
    for prompts in TEMPLATE_SETS:
        say(f"  {prompts:<10} {' | '.join(card.templates(prompts))}")
    if not card.mirrored:
        say("  mirrored   never: a mirror image would show another class")
    say(f"  license    {card.license}")
    entry = registry().dataset_entry(name)
    _show_papers(entry.papers if entry else ())
    say(f"  revision   {card.revision}")
    verdict = compare_lists(pools, card.name)
    equal = "verified: equals the published lists"
    say(f"  split      {equal if verdict is Lists.EQUAL else verdict.value}")
    if card.folder:
        say(f"  folder     {card.folder}")
    texts = {"source": card.sources, "note": card.notes, "left out": card.left_out}
    for label, lines in texts.items():
        for line in lines:
            say(f"  {label:<10} {line}")


def _show_papers(papers: Iterable[Paper]) -> None:
    for paper in papers:
        for line in paper.lines():
            label, _, text = line.partition(": ")
            say(f"  {label:<10} {text}")
