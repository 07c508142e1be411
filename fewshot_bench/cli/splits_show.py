"""`fsbench splits show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.say import say
from fewshot_bench.cli.splits_subject import Draws, Subject, draw_options, draws_of, file_or_name

if TYPE_CHECKING:
    from fewshot_bench.api.task import Split
    from fewshot_bench.splits.model import SplitFile

PUBLISHED_LISTS = {
    None: "no published lists to compare with",
    True: "equal to the published lists",
    False: "NOT the published lists",
}
PUBLISHED_PICKS = {
    None: "nothing is published for this setting",
    True: "equal to the published picks",
    False: "NOT the published picks",
}


@click.command("show", short_help="Show the lists and few-shot picks of a data set, or a file.")
@click.argument("what", metavar="NAME|FILE", shell_complete=one_of(datasets))
@draw_options
def command(what: str, shots: Any, seeds: Any, protocol: str, val: str) -> None:
    """Show the lists and few-shot picks of a data set, or a split file.

    Prints counts and digests, and whether they are the published ones.
    """
    draws = draws_of(shots, seeds, protocol, val)
    path = file_or_name(what)
    if path is None:
        _dataset(what, draws)
    elif draws is not None:
        raise click.UsageError(f"{path} is a file: --shots is for the picks of a data set")
    else:
        _file(path)


def line(label: str, text: str) -> None:
    """One aligned line."""
    say(f"  {label:<10} {text}")


def show_lists(subject: Subject) -> None:
    """The lists of a data set."""
    from fewshot_bench.splits.model import lists_digest
    from fewshot_bench.splits.published import verified_split

    say(f"{subject.name}: {subject.card.title}, {len(subject.card.classnames)} classes")
    for role, items in subject.lists.items():
        line(role, f"{len(items)} images")
    if "val" not in subject.lists:
        line("val", "held out of train, from the images that were not picked")
    line("lists", f"sha256 {lists_digest(subject.pools)}")
    line("published", PUBLISHED_LISTS[verified_split(subject.pools, subject.name)])


def show_draw(split: Split, val: str) -> None:
    """The picks of one setting."""
    from fewshot_bench.splits.model import lists_digest
    from fewshot_bench.splits.published import picks_digest, verified_picks

    title = f"{split.shots}-shot, seed {split.seed}, protocol {split.protocol}, val {val}"
    say(f"{split.dataset}: {title}")
    for role, items in (("train", split.train), ("val", split.val)):
        line(role, f"{len(items)} images, ids sha256 {picks_digest(items)}")
    line("picks", f"sha256 {lists_digest({'train': split.train, 'val': split.val})}")
    line("split", f"sha256 {split.digest} (with {len(split.test)} test images, as in records)")
    line("published", PUBLISHED_PICKS[verified_picks(split, split.dataset)])


def _dataset(name: str, draws: Draws | None) -> None:
    from fewshot_bench.cli.splits_subject import opened

    subject = opened(name)
    show_lists(subject)
    for split in draws.of(subject) if draws else ():
        show_draw(split, draws.val if draws else "")


def _file(path: Path) -> None:
    from fewshot_bench.splits.checks import check_digest
    from fewshot_bench.splits.formats import read_split_file
    from fewshot_bench.splits.model import TITLES, with_setting

    file = with_setting(read_split_file(path), None, None)
    check_digest(file)
    say(f"{path}: {TITLES[file.format]}")
    line("holds", _kind(file))
    for role, items in file.lists.items():
        classes = len({item.label for item in items})
        line(role, f"{len(items)} images of {classes} classes")
    line("picks" if file.is_draw else "lists", f"sha256 {file.digest} (ids as written)")
    line("published", _published(path, file))


def _kind(file: SplitFile) -> str:
    name = f"'{file.dataset}'" if file.dataset else "a data set that is not named"
    if not file.is_draw:
        return f"the lists of {name}"
    shots = "shots unknown" if file.shots is None else f"{file.shots}-shot"
    seed = "unknown" if file.seed is None else file.seed
    protocol = f", protocol {file.protocol}" if file.protocol else ""
    return f"picks from {name}: {shots}, seed {seed}{protocol}"


def _published(path: Path, file: SplitFile) -> str:
    from fewshot_bench.splits.published import published_splits, verified_file

    if file.is_draw:
        return "import it to compare its images with the published picks (fsbench splits import)"
    same = [name for name, p in published_splits().items() if p.lists_sha256 == file.digest]
    if not same:
        return "no published lists are equal to these"
    bytewise = ", byte for byte" if verified_file(path.read_bytes(), same[0]) else ""
    return f"equal to the published lists of {same[0]}{bytewise}"
