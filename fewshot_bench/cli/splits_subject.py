"""Subjects of `fsbench splits`: a data set by name, or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.options import NUMBERS, SHOTS
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import DataMissingError, unknown

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import DatasetCard
    from fewshot_bench.api.split_file import Pools
    from fewshot_bench.api.task import Split

Command = TypeVar("Command", bound=Callable[..., Any])
FILE_ENDINGS = (".json", ".jsonl", ".pkl", ".pickle")
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Subject:
    """A data set that was opened: its name as a run writes it, its card and its lists."""

    name: str
    card: DatasetCard
    pools: Pools

    @property
    def lists(self) -> Pools:
        """The lists that there are, in the order train, val, test."""
        return {role: self.pools[role] for role in ROLES if role in self.pools}


@dataclass(frozen=True)
class Draws:
    """A choice of few-shot picks: all pairs of shots and seeds under one protocol."""

    shots: Sequence[int]
    seeds: Sequence[int]
    protocol: str
    val: str

    def of(self, subject: Subject) -> Iterator[Split]:
        """The splits of a data set; UsageError for what cannot be drawn from it."""
        from fewshot_bench.splits.draw import check_train, draw

        check_train(subject.name, subject.pools, self.val)
        for shots in self.shots:
            for seed in self.seeds:
                yield draw(
                    subject.name,
                    subject.card.revision,
                    subject.pools,
                    protocol=self.protocol,
                    shots=shots,
                    seed=seed,
                    val=self.val,
                )


def draw_options(command: Command) -> Command:
    """The options that say which few-shot picks are meant."""
    for option in (
        click.option(
            "--val",
            default="min4",
            show_default=True,
            help=f"Validation images: {', '.join(VALIDATION)}.",
        ),
        click.option(
            "--protocol",
            default="coop",
            show_default=True,
            help=f"How picks are drawn: {', '.join(SAMPLERS)}.",
        ),
        click.option(
            "--seeds", type=NUMBERS, help="Seeds of the picks (default: 1,2,3; with --shots)."
        ),
        click.option("--shots", type=SHOTS, help="Few-shot picks with this many images a class."),
    ):
        command = option(command)
    return command


def draws_of(shots: Any, seeds: Any, protocol: str, val: str) -> Draws | None:
    """The picks that were asked for; None without --shots, for the lists of the whole data set."""
    if shots is None:
        if seeds is not None:
            raise click.UsageError(
                "--seeds says which picks are meant: add --shots, say 1,2,4,8,16"
            )
        return None
    return Draws(shots, seeds or SEEDS, protocol, val)


def opened(name: str) -> Subject:
    """The data set of a name; DataMissingError when its images or lists are not there."""
    dataset = registry().dataset(name)
    card = dataset.card()
    # `folder:a/` and `folder:a` are one data set, under the name that a run writes.
    same_family = ":" in name and card.name.partition(":")[0] == name.partition(":")[0]
    return Subject(card.name if same_family else name, card, dataset.items())


def file_or_name(text: str) -> Path | None:
    """The file that is meant; None when a registered data set is.

    A data set's name goes first: a file of the same name is `./NAME`.
    """
    known = registry().datasets.entries
    if text in known or (":" in text and f"{text.partition(':')[0]}:" in known):
        return None
    path = Path(text)
    if path.is_file():
        return path
    if path.suffix in FILE_ENDINGS or path.name != text:
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataMissingError(f"{path} {problem}: expected a split file (docs/splits.md)")
    raise unknown("data set or split file", text, known, "fsbench list datasets")
