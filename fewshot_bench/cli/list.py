"""`fsbench list`: registered names and their origins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

import click

from fewshot_bench.api.catalog import Catalog
from fewshot_bench.api.method_card import LISTED_AS, MethodCard, card_of
from fewshot_bench.api.metrics import BUILT_IN
from fewshot_bench.api.plugins import DISABLED, list_useless_disabling
from fewshot_bench.api.registry import Registry, registry
from fewshot_bench.cli.completion import one_of
from fewshot_bench.cli.output import aligned, warn
from fewshot_bench.utils.errors import PluginError, unknown
from fewshot_bench.utils.text import printable

KINDS = ("methods", "datasets", "backbones", "metrics", "engines", "options", "plugins")
_HELP = "List methods, datasets, backbones, metrics, engines, options or plugins."


@click.command("list", help=_HELP)
@click.argument("kind", metavar="|".join(KINDS), shell_complete=one_of(lambda: KINDS))
def command(kind: str) -> None:
    """Print one kind of what is registered, and warn of what is broken."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, "fsbench list --help")
    plugins = registry()
    for line in _LISTS[kind](plugins):
        click.echo(printable(line))
    conflicts = [catalog.conflicts.values() for catalog in plugins.catalogs]
    for text in (*plugins.methods.failed, *chain.from_iterable(conflicts)):
        warn(text)
    for name in list_useless_disabling():
        warn(f"{DISABLED} names '{name}', which is no entry point (fsbench list plugins)")


def _list_entries(catalog: Catalog) -> Iterator[str]:
    rows = [
        (name, "".join(paper.long_label for paper in entry.papers[:1]), entry.plugin)
        for name, entry in sorted(catalog.entries.items())
    ]
    # Engines have no papers.
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    yield from aligned(list(zip(*columns, strict=True))) if rows else ()
    yield from _list_suites(catalog)


def _list_methods(plugins: Registry) -> Iterator[str]:
    """The facts of each method's card; of methods of plug-ins their origins, too."""
    methods = plugins.methods
    lines: list[tuple[str, ...]] = [
        ("method", "family", "paper", "sees", "trained", "cost of a fit", "")
    ]
    for name in methods.names():
        entry = methods.entries[name]
        lines.append((name, *_facts(name), "" if entry.is_built_in else entry.plugin))
    yield from aligned(lines, right=(4,))
    yield "sees: the query, views of it, its batch, or the stream before it (fsbench run --queries)"
    yield f"trained: parameters of the default options at {LISTED_AS}; cost: on features"
    yield from _list_suites(methods)


def _facts(name: str) -> tuple[str, ...]:
    """Family, paper, what it sees, trained parameters, cost; dashes for what is not stated."""
    try:
        card = card_of(registry().method_class(name)) or MethodCard("")
        papers = [paper.long_label for paper in card.papers[:1]]
        views = f"{card.views_per_query} views" if card.views_per_query > 1 else ""
        sees = " of a ".join(filter(None, (views, "" if card.sees == "views" else card.sees)))
        facts = card.family, "".join(papers), sees, card.parameters, card.cost
    except (Exception, SystemExit):
        # Its code failed; `fsbench show` says why.
        facts = ("",) * 5
    return tuple(text or "-" for text in facts)


def _list_suites(catalog: Catalog) -> Iterator[str]:
    for suite, members in catalog.suites().items():
        yield f"suite {suite}: {', '.join(members)}"


def _list_backbones(plugins: Registry) -> Iterator[str]:
    yield from _list_entries(plugins.backbones)
    yield (
        "any open_clip model and tag, MODEL/TAG (ViT-B-16/openai); a local checkpoint, "
        "MODEL/TAG@FILE; hf-hub:ORG/NAME; local-dir:FOLDER"
    )


def _list_metrics(plugins: Registry) -> Iterator[str]:
    metrics = plugins.metrics
    width = max(map(len, (*BUILT_IN, *metrics.entries)))
    for name, metric in BUILT_IN.items():
        yield f"{name:<{width}}  {metric.quantity}"
    for name in metrics.names():
        try:
            quantity = plugins.metric(name).quantity
        except PluginError as error:
            quantity = f"FAILED: {error}"
        yield f"{name:<{width}}  {quantity}  ({metrics.entries[name].plugin})"


def _list_options(plugins: Registry) -> Iterator[str]:
    """Options of plug-ins; those of an engine are shown with the engine."""
    options = plugins.options
    width = max(map(len, options.entries), default=0)
    for name in options.names():
        entry = options.entries[name]
        yield f"--{name:<{width}}  {entry.options[0].help}  ({entry.plugin})"


def _list_plugins(plugins: Registry) -> Iterator[str]:
    for info in plugins.plugins:
        state = f"FAILED: {info.error}" if info.error else "ok"
        yield f"{info.distribution}:{info.name}  {info.target}  {state}"


_LISTS: Mapping[str, Callable[[Registry], Iterable[str]]] = {
    "methods": _list_methods,
    "datasets": lambda plugins: _list_entries(plugins.datasets),
    "backbones": _list_backbones,
    "metrics": _list_metrics,
    "engines": lambda plugins: _list_entries(plugins.engines),
    "options": _list_options,
    "plugins": _list_plugins,
}
