"""`fsbench list`: registered names and their origins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain

import click

from fewshot_bench.api.catalog import Catalog, Entry
from fewshot_bench.api.method_card import LISTED_AS, MethodCard, card_of
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.plugins import DISABLED, list_useless_disabling
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import one_of
from fewshot_bench.cli.output import aligned, warn
from fewshot_bench.utils.errors import PluginError, unknown
from fewshot_bench.utils.text import printable

KINDS = ("methods", "datasets", "backbones", "metrics", "engines", "options", "plugins")
_HELP = (
    "List what is registered: methods, datasets, backbones, metrics, engines, options or plugins."
)


@click.command("list", short_help=_HELP, help=_HELP)
@click.argument("kind", metavar="|".join(KINDS), shell_complete=one_of(lambda: KINDS))
def command(kind: str) -> None:
    """Print one kind of what is registered, and warn of what is broken."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, "fsbench list --help")
    _PRINTERS[kind]()
    _warn_broken()


def _entries(catalog: Catalog) -> None:
    rows = [
        (name, "".join(paper.long_label for paper in entry.papers[:1]), entry.plugin)
        for name, entry in sorted(catalog.entries.items())
    ]
    # Engines have no papers.
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    for line in aligned(list(zip(*columns, strict=True))) if rows else ():
        click.echo(printable(line))
    _suites(catalog)


def _methods() -> None:
    """Print the facts of each method's card; of methods of plug-ins their origins, too."""
    methods = registry().methods
    lines: list[tuple[str, ...]] = [("method", "family", "paper", "trained", "cost of a fit", "")]
    lines += [(name, *_facts(name), _plugin(methods.entries[name])) for name in methods.names()]
    for line in aligned(lines, right=(_NUMBER,)):
        click.echo(printable(line))
    click.echo(f"trained: parameters of the default options at {LISTED_AS}; cost: on features")
    _suites(registry().methods)


_NUMBER = 3


def _facts(name: str) -> tuple[str, ...]:
    """Family, paper, trained parameters and cost; dashes for what the method does not state."""
    try:
        card = card_of(registry().method_class(name)) or MethodCard("")
        papers = [paper.long_label for paper in card.papers[:1]]
        facts = card.family, "".join(papers), card.parameters, card.cost
    except (Exception, SystemExit):
        # Its code failed; `fsbench show` says why.
        facts = ("",) * 4
    return tuple(text or "-" for text in facts)


def _plugin(entry: Entry) -> str:
    return "" if entry.is_built_in else entry.plugin


def _suites(catalog: Catalog) -> None:
    for suite, members in catalog.suites().items():
        click.echo(printable(f"suite {suite}: {', '.join(members)}"))


def _backbones() -> None:
    _entries(registry().backbones)
    click.echo(
        "any open_clip model and tag, MODEL/TAG (ViT-B-16/openai); a local checkpoint, "
        "MODEL/TAG@FILE; hf-hub:ORG/NAME; local-dir:FOLDER"
    )


def _metrics() -> None:
    metrics = registry().metrics
    width = max(map(len, (*METRICS, *metrics.entries)))
    for name, metric in METRICS.items():
        click.echo(f"{name:<{width}}  {metric.quantity}")
    for name in metrics.names():
        try:
            quantity = registry().metric(name).quantity
        except PluginError as error:
            quantity = f"FAILED: {error}"
        click.echo(printable(f"{name:<{width}}  {quantity}  ({metrics.entries[name].plugin})"))


def _options() -> None:
    """Print options of plug-ins; options of an engine are shown with the engine."""
    options = registry().options
    width = max(map(len, options.entries), default=0)
    for name in options.names():
        entry = options.entries[name]
        click.echo(printable(f"--{name:<{width}}  {entry.options[0].help}  ({entry.plugin})"))


def _plugins() -> None:
    for info in registry().plugins:
        state = f"FAILED: {info.error}" if info.error else "ok"
        click.echo(printable(f"{info.distribution}:{info.name}  {info.target}  {state}"))


_PRINTERS: Mapping[str, Callable[[], None]] = {
    "methods": _methods,
    "datasets": lambda: _entries(registry().datasets),
    "backbones": _backbones,
    "metrics": _metrics,
    "engines": lambda: _entries(registry().engines),
    "options": _options,
    "plugins": _plugins,
}


def _warn_broken() -> None:
    plugins = registry()
    conflicts = [catalog.conflicts.values() for catalog in plugins.catalogs]
    for text in (*plugins.methods.failed, *chain.from_iterable(conflicts)):
        warn(text)
    for name in list_useless_disabling():
        warn(f"{DISABLED} names '{name}', which is no entry point (fsbench list plugins)")
