"""`fsbench splits`: splits as files that can be shown, shared, used and checked.

`command` is the group; `show` and `export` start from a data set. `Subject` is an open data set,
`Draws` the requested few-shot picks. Commands on files are in `splits_files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from fewshot_bench.api.dataset import ROLES, DatasetCard
from fewshot_bench.api.items import Item
from fewshot_bench.api.registry import registry
from fewshot_bench.api.split_file import Pools
from fewshot_bench.api.task import Split
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.groups import LazyCommand, LazyGroup
from fewshot_bench.cli.options import NUMBERS, SHOTS, PathName, kept_split_option
from fewshot_bench.cli.output import say
from fewshot_bench.cli.panels import Command, Option, add_options
from fewshot_bench.cli.working import working
from fewshot_bench.splits.checks import check_digest
from fewshot_bench.splits.draw import check_train, draw
from fewshot_bench.splits.formats import ENDINGS, place, read_split_file, refuse_existing, text_of
from fewshot_bench.splits.imported import safe_name
from fewshot_bench.splits.model import TITLES, SplitFile, lists_digest, with_setting
from fewshot_bench.splits.published import (
    Lists,
    compare_lists,
    picks_digest,
    published_splits,
    verify_file,
    verify_picks,
)
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import DataMissingError, UsageError, unknown

_MODULE = "fewshot_bench.cli.splits"
COMMANDS = {
    "show": LazyCommand(
        f"{_MODULE}:show", "Show the lists and few-shot picks of a data set, or a split file."
    ),
    "export": LazyCommand(
        f"{_MODULE}:export", "Write the lists or few-shot picks of a data set to files."
    ),
    "import": LazyCommand(
        f"{_MODULE}_files:import_file", "Take over the lists or few-shot picks of a file."
    ),
    "verify": LazyCommand(
        f"{_MODULE}_files:verify", "Check a data set's lists and picks, or a split file."
    ),
}
FILE_ENDINGS = (".json", ".jsonl", ".pkl", ".pickle")
SEEDS = (1, 2, 3)
PUBLISHED_PICKS = {
    None: "nothing is published for this setting",
    True: "equal to the published picks",
    False: "NOT the published picks",
}


@click.group(
    "splits",
    cls=LazyGroup,
    subcommands=COMMANDS,
    short_help="Show, export, import and verify splits.",
)
def command() -> None:
    """Show, export, import and verify splits.

    A split is the lists of a whole data set (train, val, test), or few-shot picks from them.
    """


@dataclass(frozen=True)
class Subject:
    """An open data set: its name as in records, its card and its lists."""

    name: str
    card: DatasetCard
    pools: Pools

    @property
    def lists(self) -> Pools:
        """The existing lists, in the order train, val, test."""
        return {role: self.pools[role] for role in ROLES if role in self.pools}


@dataclass(frozen=True)
class Draws:
    """A choice of few-shot picks: all pairs of shots and seeds under one protocol."""

    shots: Sequence[int]
    seeds: Sequence[int]
    protocol: str
    val: str

    def of(self, subject: Subject) -> Iterator[Split]:
        """The splits of a data set; UsageError if they cannot be drawn from it."""
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
    """Add the options that select few-shot picks to a command."""
    how = f"How picks are drawn: {', '.join(SAMPLERS)}."
    held_out = f"Validation images: {', '.join(VALIDATION)}."
    seeds = "Seeds of the picks (default: 1,2,3; with --shots)."
    options: list[click.Option] = [
        Option(["--shots"], type=SHOTS, help="Few-shot picks with this many images a class."),
        Option(["--seeds"], type=NUMBERS, help=seeds),
        Option(["--protocol"], default="coop", show_default=True, help=how),
        Option(["--val"], default="min4", show_default=True, help=held_out),
    ]
    return add_options(command, options)


def draws_of(shots: Any, seeds: Any, protocol: str, val: str) -> Draws | None:
    """The requested picks; None without --shots, for the lists of the whole data set."""
    if shots is None:
        ctx = click.get_current_context()
        for name in ("seeds", "protocol", "val"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--{name} says which picks are meant: add --shots, say 1,2,4,8,16"
                )
        return None
    return Draws(shots, seeds or SEEDS, protocol, val)


def opened(name: str, store: Path) -> Subject:
    """Open the data set of this name; DataMissingError if its images or lists are absent.

    store: own images have the split that it keeps, if any.
    """
    dataset = registry().dataset(name, store=store)
    card = dataset.card()
    # `folder:a/` and `folder:a` are one data set, under the name that records hold.
    same_family = ":" in name and card.name.partition(":")[0] == name.partition(":")[0]
    return Subject(card.name if same_family else name, card, dataset.items())


def file_or_name(text: str) -> Path | None:
    """The path of a split file; None if `text` names a registered data set.

    A data set's name takes precedence: write `./NAME` for a file of the same name.
    """
    names = registry().datasets.entries
    if text in names or (":" in text and f"{text.partition(':')[0]}:" in names):
        return None
    path = Path(text)
    if path.is_file():
        return path
    if path.suffix in FILE_ENDINGS or path.name != text:
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataMissingError(f"{path} {problem}: expected a split file (docs/splits.md)")
    raise unknown("data set or split file", text, names, "fsbench list datasets")


@click.command("show", short_help="Show the lists and few-shot picks of a data set, or a file.")
@click.argument("what", metavar="NAME|FILE", shell_complete=one_of(datasets))
@draw_options
@kept_split_option
@working("splits show", live=False)
def show(what: str, shots: Any, seeds: Any, protocol: str, val: str, store: Path) -> None:
    """Show the lists and few-shot picks of a data set, or a split file.

    Prints counts and digests, and whether they are the published ones.
    """
    draws = draws_of(shots, seeds, protocol, val)
    path = file_or_name(what)
    if path is None:
        _dataset(what, draws, store)
    elif draws is not None:
        raise click.UsageError(f"{path} is a file: --shots is for the picks of a data set")
    else:
        _file(path)


def line(label: str, text: str) -> None:
    """Print one aligned line."""
    say(f"  {label:<10} {text}")


def counts(lists: Mapping[str, Sequence[Item]]) -> str:
    """`64 train, 16 val`."""
    return ", ".join(f"{len(items)} {role}" for role, items in lists.items())


def show_lists(subject: Subject) -> None:
    """Print the lists of a data set."""
    say(f"{subject.name}: {subject.card.title}, {len(subject.card.classnames)} classes")
    for role, items in subject.lists.items():
        line(role, f"{len(items)} images")
    if "val" not in subject.lists:
        line("val", "held out of train, from the images that were not picked")
    line("lists", f"sha256 {lists_digest(subject.pools)}")
    line("published", compare_lists(subject.pools, subject.name).value)


def show_draw(split: Split, val: str) -> None:
    """Print the picks of one setting."""
    title = f"{split.shots}-shot, seed {split.seed}, protocol {split.protocol}, val {val}"
    say(f"{split.dataset}: {title}")
    for role, items in (("train", split.train), ("val", split.val)):
        line(role, f"{len(items)} images, ids sha256 {picks_digest(items)}")
    line("picks", f"sha256 {lists_digest({'train': split.train, 'val': split.val})}")
    line("split", f"sha256 {split.digest} (with {len(split.test)} test images, as in records)")
    line("published", PUBLISHED_PICKS[verify_picks(split, split.dataset)])


def _dataset(name: str, draws: Draws | None, store: Path) -> None:
    subject = opened(name, store)
    show_lists(subject)
    for split in draws.of(subject) if draws else ():
        show_draw(split, draws.val if draws else "")


def _file(path: Path) -> None:
    file = with_setting(read_split_file(path), None, None)
    check_digest(file)
    say(f"{path}: {TITLES[file.format]}")
    line("holds", _kind(file))
    for role, items in file.lists.items():
        classes = len({item.label for item in items})
        line(role, f"{len(items)} images of {classes} classes")
    line("picks" if file.is_draw else "lists", f"sha256 {file.digest} (ids as written)")
    line("published", _compare_published(path, file))


def _kind(file: SplitFile) -> str:
    name = f"'{file.dataset}'" if file.dataset else "a data set that is not named"
    if not file.is_draw:
        return f"the lists of {name}"
    shots = "shots unknown" if file.shots is None else f"{file.shots}-shot"
    seed = "unknown" if file.seed is None else file.seed
    protocol = f", protocol {file.protocol}" if file.protocol else ""
    return f"picks from {name}: {shots}, seed {seed}{protocol}"


def _compare_published(path: Path, file: SplitFile) -> str:
    if file.is_draw:
        return "import it to compare its images with the published picks (fsbench splits import)"
    same = [name for name, p in published_splits().items() if p.lists_sha256 == file.digest]
    if not same:
        return "no published lists are equal to these"
    verdict = compare_lists(file.lists, same[0])
    if verdict is Lists.RENAMED:
        return f"{same[0]}: {verdict.value}"
    bytewise = ", byte for byte" if verify_file(path.read_bytes(), same[0]) else ""
    return f"equal to the published lists of {same[0]}{bytewise}"


@click.command("export", short_help="Write the lists or few-shot picks of a data set to files.")
@click.argument("name", metavar="NAME", shell_complete=one_of(datasets))
@draw_options
@click.option(
    "--format", help="fsbench, coop, index or jsonl (default: coop; fsbench with --shots)."
)
@click.option(
    "-O",
    "--output",
    required=True,
    type=PathName(path_type=Path),
    metavar="FILE|FOLDER",
    help="Where to write: a file with the ending of its format, or a folder, which is made.",
)
@click.option("--with-test", is_flag=True, help="Write the test list beside the picks, too.")
@kept_split_option
@click.option("--force", is_flag=True, help="Replace files that are there.")
@working("splits export", live=False)
def export(
    name: str,
    shots: Any,
    seeds: Any,
    protocol: str,
    val: str,
    format: str | None,
    output: Path,
    with_test: bool,
    store: Path,
    force: bool,
) -> None:
    """Write the lists or few-shot picks of a data set to files.

    Without --shots, the train, val and test lists are written. With --shots, the picks of each
    setting are: files named shot_16-seed_1.json in a folder, or one file.
    """
    draws = draws_of(shots, seeds, protocol, val)
    format = format or ("coop" if draws is None else "fsbench")
    if format not in ENDINGS:
        raise unknown("format", format, ENDINGS, "fsbench splits export --help")
    if with_test and (draws is None or format == "index"):
        raise UsageError("--with-test is for picks (--shots) in format fsbench or jsonl")
    subject = opened(name, store)
    files = [_lists(subject)] if draws is None else list(_picks(subject, draws, with_test))
    texts = [text_of(file, format, subject.pools) for file in files]
    paths = _targets(files, output, format)
    refuse_existing(paths, force=force)
    for file, path, text in zip(files, paths, texts, strict=True):
        _write(subject, file, path, text.encode(), force=force)


def _lists(subject: Subject) -> SplitFile:
    revision = subject.card.revision
    return SplitFile(Path(), "", subject.lists, dataset=subject.name, revision=revision)


def _picks(subject: Subject, draws: Draws, with_test: bool) -> Iterator[SplitFile]:
    for split in draws.of(subject):
        lists = {"train": split.train, "val": split.val}
        yield SplitFile(
            Path(),
            "",
            lists | {"test": split.test} if with_test else lists,
            dataset=split.dataset,
            revision=split.revision,
            protocol=split.protocol,
            shots=split.shots,
            seed=split.seed,
        )


def _targets(files: list[SplitFile], output: Path, format: str) -> list[Path]:
    """One path per file; UsageError if several files would go into one, or the ending is wrong."""
    ending = f".{ENDINGS[format]}"
    new_folder = not output.suffix and not output.exists()
    if len(files) == 1 and not new_folder and not output.is_dir():
        if output.suffix != ending and not output.exists():
            raise UsageError(
                f"-O {output}: expected a file that ends in {ending} (format {format}), or a "
                "folder, which has no ending"
            )
        return [output]
    if output.suffix == ending or output.is_file():
        raise UsageError(
            f"-O {output}: {len(files)} picks go into {len(files)} files; expected a folder"
        )
    return [output / _file_name(file, ending) for file in files]


def _file_name(file: SplitFile, ending: str) -> str:
    if file.is_draw:
        return f"shot_{file.shots}-seed_{file.seed}{ending}"
    published = published_splits().get(file.dataset)
    if published is not None and Path(published.file).suffix == ending:
        return published.file
    return f"split_{safe_name(file.dataset)}{ending}"


def _write(subject: Subject, file: SplitFile, path: Path, content: bytes, *, force: bool) -> None:
    place(path, content, force=force)
    say(f"{path}: {counts(file.lists)}")
    say(f"  {'picks' if file.is_draw else 'lists'} sha256 {file.digest}")
    if not file.is_draw and verify_file(content, subject.name):
        say("  equal to the published file, byte for byte")
