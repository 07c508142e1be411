"""`fsbench show`: a method's hyper-parameters, or a data set's card."""

from __future__ import annotations

import inspect

import click

from fewshot_bench.dataset import ROLES, TEMPLATE_SETS, Dataset, DatasetCard
from fewshot_bench.errors import DataMissingError, unknown
from fewshot_bench.method import hyperparameters
from fewshot_bench.registry import registry


@click.command("show", short_help="Show a method's hyper-parameters or a data set's card.")
@click.argument("name")
def command(name: str) -> None:
    """Show a method's hyper-parameters or a data set's card."""
    known = registry()
    if name in known.methods.entries:
        _method(name)
        return
    family = f"{name.partition(':')[0]}:"
    if name in known.datasets.entries or (":" in name and family in known.datasets.entries):
        _dataset(name)
        return
    if name in known.backbones.entries:
        click.echo(f"{name}: backbone, registered by {known.backbones.entries[name].origin}")
        return
    names = [*known.methods.entries, *known.datasets.entries, *known.backbones.entries]
    raise unknown("name", name, names, "fsbench list methods, fsbench list datasets")


def _method(name: str) -> None:
    cls = registry().method_class(name)
    click.echo(f"{name} (version {getattr(cls, 'version', '1')})")
    click.echo(f"{inspect.cleandoc(cls.__doc__ or '')}\n")
    click.echo("hyper-parameters (set with -o name=value):")
    for field in hyperparameters(cls):
        unit = f" {field.unit}" if field.unit else ""
        click.echo(f"  {field.name} = {field.default!r}{unit}   [{field.type_name}]")
        if field.help:
            click.echo(f"      {field.help}")
        if field.source:
            click.echo(f"      source: {field.source}")
    click.echo(f"registered by {registry().methods.entries[name].origin}")


def _dataset(name: str) -> None:
    try:
        dataset: Dataset = registry().dataset(name)
        card = dataset.card()
        pools = dataset.items()
    except DataMissingError as error:
        click.echo(f"{name}: not available\n{error}")
        raise click.exceptions.Exit(DataMissingError.exit_code) from None
    counts = {role: len(pools.get(role, ())) for role in ROLES}
    click.echo(f"{card.name}: {card.title}")
    click.echo(f"  classes    {len(card.classnames)}: {_shortened(card)}")
    for role, count in counts.items():
        click.echo(f"  {role:<10} {count} images{_expected(card, role, count)}")
    for prompts in TEMPLATE_SETS:
        click.echo(f"  {prompts:<10} {' | '.join(card.templates(prompts))}")
    if not card.mirrored:
        click.echo("  mirrored   never: a mirror image would show another class")
    click.echo(f"  license    {card.license}")
    click.echo(f"  revision   {card.revision}")
    click.echo(f"  split      {_verified(card, dataset)}")
    if card.folder:
        click.echo(f"  folder     {card.folder}")
    for label, lines in (("source", card.sources), ("note", card.notes)):
        for line in lines:
            click.echo(f"  {label:<10} {line}")


def _shortened(card: DatasetCard) -> str:
    names = list(card.classnames)
    return ", ".join(names if len(names) <= 12 else [*names[:11], "..."])


def _expected(card: DatasetCard, role: str, count: int) -> str:
    expected = card.expected_counts.get(role)
    if expected is None or expected == count:
        return ""
    return f" (the published set has {expected}: this copy differs)"


def _verified(card: DatasetCard, dataset: Dataset) -> str:
    from fewshot_bench.published.picks import verified_split

    verdict = verified_split(dataset.items(), card.name)
    return {
        None: "no published lists to compare with",
        True: "verified: equals the published lists",
        False: "NOT the published lists",
    }[verdict]
