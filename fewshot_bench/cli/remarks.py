"""What a run says of its images, and what it clears away when it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from fewshot_bench.image_facts import Overlap, overlap_texts
from fewshot_bench.wording import printable

if TYPE_CHECKING:
    from fewshot_bench.dataset import Dataset
    from fewshot_bench.spec import RunSpec
    from fewshot_bench.store import Store


def to_stderr(text: str) -> None:
    """Print a line of an engine for the person who waits."""
    click.echo(printable(text), err=True)


def tell_problems(problems: Mapping[str, str]) -> None:
    """Name data sets of which it cannot be told whether their images changed; by name, why."""
    for name, problem in problems.items():
        _warn(f"whether images of {name} changed since cells were computed is not known: {problem}")


def tell_missing(problems: Mapping[str, str]) -> None:
    """Name data sets that cannot be used, with why; by name."""
    for problem in problems.values():
        click.echo(f"error: {printable(problem)}", err=True)


def tell_overlaps(found: Sequence[Overlap], told: Sequence[str] = ()) -> Sequence[str]:
    """Name data sets of which test images are fitted on, unless that was told; which these are."""
    texts = overlap_texts(found)
    for name, text in texts.items():
        if name not in told:
            _warn(text)
    return list(texts)


def forget_claims(results: Store, settled: Sequence[RunSpec]) -> None:
    """What a killed run had claimed is of no use once it is settled."""
    from fewshot_bench.leases import Leases

    Leases(results, "").forget(cell.fit_key() for cell in settled)


def _warn(text: str) -> None:
    click.echo(f"warning: {printable(text)}", err=True)


def tell_left_out(datasets: Mapping[str, Dataset]) -> None:
    """What lies with the images of data sets and is not used."""
    for name, dataset in datasets.items():
        for line in dataset.card().left_out:
            click.echo(printable(f"{name}: {line}"))
