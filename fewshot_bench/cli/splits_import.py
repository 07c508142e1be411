"""`fsbench splits import`."""

from __future__ import annotations

import codecs
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api.spec import DEFAULT_STORE, IMPORTED
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.say import say
from fewshot_bench.cli.splits_subject import Subject
from fewshot_bench.splits.sampling import SAMPLERS
from fewshot_bench.utils.errors import DataMissingError, UsageError

if TYPE_CHECKING:
    from fewshot_bench.splits.model import SplitFile


@click.command("import", short_help="Take over the lists or few-shot picks of a file.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--dataset",
    required=True,
    metavar="NAME",
    shell_complete=one_of(datasets),
    help="The data set it belongs to.",
)
@click.option("--shots", type=click.IntRange(1), help="Shots of the picks, if not in the file.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the picks, if not in the file.")
@click.option("--name", help="File name for lists, if the file's own is not the data set's.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=DEFAULT_STORE,
    show_default=True,
    help="Store for which picks are imported.",
)
@click.option("--force", is_flag=True, help="Replace what was imported before.")
def command(
    path: Path,
    dataset: str,
    shots: int | None,
    seed: int | None,
    name: str | None,
    store: Path,
    force: bool,
) -> None:
    """Take over the lists or few-shot picks of a file.

    Lists (CoOp's split file) go where the data set looks for them. Picks of any format go into the
    store, for fsbench run --protocol imported.
    """
    from fewshot_bench.api.registry import registry
    from fewshot_bench.splits.checks import check_digest
    from fewshot_bench.splits.formats import read_split_file
    from fewshot_bench.splits.model import with_setting

    registry().expand_datasets([dataset])
    file = with_setting(read_split_file(path), shots, seed)
    check_digest(file)
    _refuse_other_name(file, dataset)
    if not file.is_draw:
        _import_lists(file, dataset, name, force)
    elif name is not None:
        raise UsageError("--name is for the lists of a data set; picks are named by their setting")
    else:
        _import_picks(file, dataset, store, force)


def _refuse_other_name(file: SplitFile, dataset: str) -> None:
    """UsageError for a file of another registered set; names with a path differ by machine."""
    if file.dataset and file.dataset != dataset and ":" not in file.dataset + dataset:
        raise UsageError(
            f"{file.path} is a split of '{file.dataset}', not of '{dataset}' (use --dataset "
            f"{file.dataset})"
        )


def _import_lists(file: SplitFile, dataset: str, name: str | None, force: bool) -> None:
    from fewshot_bench.api.roots import data_roots
    from fewshot_bench.api.split_file import coop_text, pools_from
    from fewshot_bench.splits.formats import place
    from fewshot_bench.splits.published import verified_file, verified_split

    target = data_roots()[0] / "splits" / _list_name(file, dataset, name)
    if file.format == "coop":
        content = file.path.read_bytes().removeprefix(codecs.BOM_UTF8)
    else:
        lists = {role: file.lists.get(role, ()) for role in ("train", "val", "test")}
        content = coop_text(lists).encode()
        pools_from(file.path, {r: [[i.id, i.label, i.classname] for i in lists[r]] for r in lists})
    new = place(target, content, force=force)
    counts = ", ".join(f"{len(items)} {role}" for role, items in file.lists.items())
    say(f"{dataset}: {counts} from {file.path}")
    say(f"  lists      sha256 {file.digest}")
    equal = {True: "equal to the published lists", None: "no published lists to compare with"}
    text = equal.get(
        verified_split(file.lists, dataset),
        "NOT the published lists: numbers on them cannot be compared with published ones",
    )
    bytewise = ", byte for byte" if verified_file(content, dataset) else ""
    say(f"  published  {text}{bytewise}")
    say(f"  {'written to' if new else 'is already'} {target}")
    say(f"  in use     {_in_use(file, dataset, target)}")


def _in_use(file: SplitFile, dataset: str, target: Path) -> str:
    """True when the data set reads the lists that were just imported."""
    from fewshot_bench.cli.splits_subject import opened
    from fewshot_bench.splits.model import lists_digest

    try:
        pools = opened(dataset).pools
    except DataMissingError as error:
        return f"not yet: {error}"
    if lists_digest(pools) == file.digest:
        return f"yes, {dataset} reads these lists"
    return f"NO: {dataset} finds another split file before {target}; remove that one"


def _list_name(file: SplitFile, dataset: str, name: str | None) -> str:
    """The file name under which a data set looks for its lists."""
    from fewshot_bench.splits.published import published_splits

    if name is not None and (Path(name).name != name or name in ("", ".", "..")):
        raise UsageError(f"--name {name}: expected a file name without a folder")
    known = published_splits()
    if dataset in known:
        _refuse_other_lists(file, dataset)
        return name or known[dataset].file
    if name is not None:
        return name
    raise UsageError(
        f"'{dataset}' has no split file of a known name: expected one of {', '.join(sorted(known))}"
        " (or give --name where a plug-in looks for one; coop:FOLDER uses a split file as it lies)"
    )


def _refuse_other_lists(file: SplitFile, dataset: str) -> None:
    """UsageError for the published lists of another data set."""
    from fewshot_bench.splits.published import published_splits

    for name, known in published_splits().items():
        if name != dataset and known.lists_sha256 == file.digest:
            raise UsageError(f"{file.path} holds the lists of '{name}' (use --dataset {name})")


def _import_picks(file: SplitFile, dataset: str, store: Path, force: bool) -> None:
    from fewshot_bench.cli.splits_subject import opened
    from fewshot_bench.splits.formats import ours_text, place
    from fewshot_bench.splits.imported import imported_path

    shots, seed = _setting(file)
    subject = opened(dataset)
    found = _checked(file, subject)
    lists = {"train": found.lists["train"], "val": found.lists.get("val", ())}
    stored = replace(
        found,
        lists=lists,
        dataset=subject.name,
        revision=subject.card.revision,
        protocol=IMPORTED,
    )
    target = imported_path(store, subject.name, shots, seed)
    new = place(target, ours_text(stored).encode(), force=force)
    counts = ", ".join(f"{len(items)} {role}" for role, items in lists.items())
    say(f"{subject.name}: {shots}-shot, seed {seed}: {counts} from {file.path}")
    say(f"  picks      sha256 {stored.digest}")
    for label, text in _comparison(file, found, subject):
        say(f"  {label:<10} {text}")
    say(f"  {'written to' if new else 'is already'} {target}")
    policy = "" if lists["val"] else " --val none"
    say(
        f"  use        fsbench run --dataset {subject.name} --protocol imported{policy} --shots "
        f"{shots} --seeds {seed} --store {store} ..."
    )


def _setting(file: SplitFile) -> tuple[int, int]:
    if file.shots is None or file.seed is None:
        missing = " and ".join(
            option
            for option, value in (("--shots", file.shots), ("--seed", file.seed))
            if value is None
        )
        raise UsageError(
            f"{file.path} does not say which picks it holds: give {missing}, or name it "
            "shot_16-seed_1"
        )
    return file.shots, file.seed


def _checked(file: SplitFile, subject: Subject) -> SplitFile:
    """The picks as items of the data set; DataMissingError when they cannot be used."""
    from fewshot_bench.splits import checks
    from fewshot_bench.splits.checks import mapped

    found = mapped(file, subject.pools, subject.name)
    checks.check_overlap(found)
    checks.check_pools(found, subject.pools, subject.name)
    checks.check_shots(found, subject.pools, subject.name)
    return found


def _comparison(file: SplitFile, found: SplitFile, subject: Subject) -> list[tuple[str, str]]:
    """Facts on imported picks: published or not, and the overlap with our own draws."""
    from fewshot_bench.cli.splits_show import PUBLISHED_PICKS
    from fewshot_bench.splits.checks import check_positions
    from fewshot_bench.splits.published import as_split, likeness, verified_picks

    rows = [(name, likeness(found, subject.pools, name)) for name in SAMPLERS]
    split = as_split(found, subject.name, "coop")
    rows.append(("published", PUBLISHED_PICKS[verified_picks(split, subject.name)]))
    if file.positions:
        try:
            rows.append(("positions", check_positions(file, found, subject.pools, subject.name)))
        except DataMissingError as error:
            rows.append(("positions", f"NOT used: {error}"))
    if "test" in found.lists:
        same = found.lists["test"] == tuple(subject.pools.get("test", ()))
        rows.append(
            (
                "test",
                "the data set's list"
                if same
                else f"NOT used: the file's test list is another one than that of {subject.name}",
            )
        )
    return rows
