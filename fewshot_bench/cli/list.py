"""`fsbench list`: what is registered, and by whom."""

from __future__ import annotations

from itertools import chain

import click

from fewshot_bench.api.registry import Catalog, registry
from fewshot_bench.cli.completion import one_of
from fewshot_bench.utils.errors import unknown
from fewshot_bench.utils.text import printable

KINDS = ("methods", "datasets", "backbones", "engines", "plugins")


@click.command(
    "list", short_help="List what is registered: methods, datasets, backbones, engines or plugins."
)
@click.argument("kind", metavar="|".join(KINDS), shell_complete=one_of(lambda: KINDS))
def command(kind: str) -> None:
    """List what is registered: methods, datasets, backbones, engines or plugins."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, "fsbench list --help")
    if kind == "plugins":
        _plugins()
    elif kind == "datasets":
        _datasets()
    elif kind == "backbones":
        _backbones()
    elif kind == "engines":
        _entries(registry().engines)
    else:
        _entries(registry().methods)
    _warn_broken()


def _entries(catalog: Catalog) -> None:
    width = max((len(name) for name in catalog.names()), default=0)
    for name in catalog.names():
        origin = catalog.entries[name].origin.split(",")[0]
        click.echo(printable(f"{name:<{width}}  {origin}"))


def _datasets() -> None:
    known = registry()
    _entries(known.datasets)
    for suite, members in known.suites().items():
        click.echo(f"suite {suite}: {', '.join(members)}")


def _backbones() -> None:
    _entries(registry().backbones)
    click.echo(
        "any open_clip model and tag, MODEL/TAG (ViT-B-16/openai); a local checkpoint, "
        "MODEL/TAG@FILE; hf-hub:ORG/NAME; local-dir:FOLDER"
    )


def _plugins() -> None:
    for info in registry().plugins:
        state = f"FAILED: {info.error}" if info.error else "ok"
        click.echo(printable(f"{info.distribution}:{info.name}  {info.target}  {state}"))


def _warn_broken() -> None:
    known = registry()
    conflicts = [catalog.conflicts.values() for catalog in known.catalogs]
    for text in (*known.methods.failed, *chain.from_iterable(conflicts)):
        click.echo(f"warning: {printable(text)}", err=True)
