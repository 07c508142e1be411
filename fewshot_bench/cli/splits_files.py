"""`fsbench splits import` and `fsbench splits verify`: lists and picks of files.

Files that do not fit the data set are refused; lists and picks are compared with published ones.
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from fewshot_bench.api.dataset import data_roots
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import IMPORTED
from fewshot_bench.api.split_file import coop_text, pools_from
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.options import PathName, kept_split_option, store_option
from fewshot_bench.cli.output import say
from fewshot_bench.cli.splits import PUBLISHED_PICKS, Subject, counts, file_or_name, line, opened
from fewshot_bench.cli.working import working
from fewshot_bench.splits import checks
from fewshot_bench.splits.checks import check_digest, check_positions, map_to_items
from fewshot_bench.splits.formats import ours_text, place, read_split_file
from fewshot_bench.splits.imported import fit_validation, path_of_import
from fewshot_bench.splits.model import TITLES, SplitFile, lists_digest, with_setting
from fewshot_bench.splits.published import (
    Lists,
    PublishedDraw,
    as_split,
    compare_lists,
    compare_with_draw,
    published_splits,
    read_published_draws,
    verify_file,
    verify_picks,
)
from fewshot_bench.splits.sampling import SAMPLERS
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, UsageError

OK, FAILED, OPEN = "ok", "FAILED", "-"
Check = tuple[str, str, str]


@click.command("import", short_help="Take over the lists or few-shot picks of a file.")
@click.argument("path", metavar="FILE", type=PathName(path_type=Path))
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
@store_option("Store for which picks are imported.")
@click.option("--force", is_flag=True, help="Replace what was imported before.")
@working("splits import", live=False)
def import_file(
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
    registry().expand_datasets([dataset])
    file = with_setting(read_split_file(path), shots, seed)
    check_digest(file)
    _refuse_other_name(file, dataset)
    if not file.is_draw:
        _import_lists(file, dataset, name, store, force)
    elif name is not None:
        raise UsageError("--name is for the lists of a data set; picks are named by their setting")
    else:
        _import_picks(file, dataset, store, force)


def _refuse_other_name(file: SplitFile, dataset: str) -> None:
    """UsageError for a file of another data set; names with paths, which vary, are not compared."""
    if file.dataset and file.dataset != dataset and ":" not in file.dataset + dataset:
        raise UsageError(
            f"{file.path} is a split of '{file.dataset}', not of '{dataset}' (use --dataset "
            f"{file.dataset})"
        )


def _import_lists(
    file: SplitFile, dataset: str, name: str | None, store: Path, force: bool
) -> None:
    target = data_roots()[0] / "splits" / _list_name(file, dataset, name)
    if file.format == "coop":
        content = file.path.read_bytes().removeprefix(codecs.BOM_UTF8)
    else:
        lists = {role: file.lists.get(role, ()) for role in ("train", "val", "test")}
        content = coop_text(lists).encode()
        pools_from(file.path, {r: [[i.id, i.label, i.classname] for i in lists[r]] for r in lists})
    new = place(target, content, force=force)
    say(f"{dataset}: {counts(file.lists)} from {file.path}")
    line("lists", f"sha256 {file.digest}")
    verdict = compare_lists(file.lists, dataset)
    text = verdict.value
    if verdict is Lists.OTHER:
        text += ": numbers on them cannot be compared with published ones"
    bytewise = ", byte for byte" if verify_file(content, dataset) else ""
    line("published", f"{text}{bytewise}")
    say(f"  {'written to' if new else 'is already'} {target}")
    line("in use", _in_use(file, dataset, target, store))


def _in_use(file: SplitFile, dataset: str, target: Path, store: Path) -> str:
    """A text on whether the data set reads the lists that were just imported."""
    try:
        pools = opened(dataset, store).pools
    except DataMissingError as error:
        return f"not yet: {error}"
    if lists_digest(pools) == file.digest:
        return f"yes, {dataset} reads these lists"
    return f"NO: {dataset} finds another split file before {target}; remove that one"


def _list_name(file: SplitFile, dataset: str, name: str | None) -> str:
    """The file name under which a data set looks for its lists."""
    if name is not None and (Path(name).name != name or name in ("", ".", "..")):
        raise UsageError(f"--name {name}: expected a file name without a folder")
    published = published_splits()
    if dataset in published:
        _refuse_other_lists(file, dataset)
        return name or published[dataset].file
    if name is not None:
        return name
    raise UsageError(
        f"'{dataset}' has no split file of a known name: expected one of "
        f"{', '.join(sorted(published))} (or give --name where a plug-in looks for one; "
        "coop:FOLDER uses a split file as it lies)"
    )


def _refuse_other_lists(file: SplitFile, dataset: str) -> None:
    """UsageError for the published lists of another data set."""
    for name, published in published_splits().items():
        if name != dataset and published.lists_sha256 == file.digest:
            raise UsageError(f"{file.path} holds the lists of '{name}' (use --dataset {name})")


def _import_picks(file: SplitFile, dataset: str, store: Path, force: bool) -> None:
    shots, seed = _setting(file)
    subject = opened(dataset, store)
    picks = _usable(file, subject)
    lists = {"train": picks.lists["train"], "val": picks.lists.get("val", ())}
    stored = replace(
        picks,
        lists=lists,
        dataset=subject.name,
        revision=subject.card.revision,
        protocol=IMPORTED,
    )
    target = path_of_import(store, subject.name, shots, seed)
    new = place(target, ours_text(stored).encode(), force=force)
    say(f"{subject.name}: {shots}-shot, seed {seed}: {counts(lists)} from {file.path}")
    line("picks", f"sha256 {stored.digest}")
    for label, text in _comparison(file, picks, subject):
        line(label, text)
    say(f"  {'written to' if new else 'is already'} {target}")
    policy = fit_validation(lists["val"], shots)
    words = ["fsbench", "run", "--dataset", subject.name, "--protocol", IMPORTED, "--val", policy]
    words += ["--shots", str(shots), "--seeds", str(seed), "--store", str(store)]
    line("use", f"{shlex.join(words)} ...")


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


def _usable(file: SplitFile, subject: Subject) -> SplitFile:
    """The picks as items of the data set; DataMissingError when they cannot be used."""
    picks = map_to_items(file, subject.pools, subject.name)
    checks.check_overlap(picks)
    checks.check_pools(picks, subject.pools, subject.name)
    checks.check_shots(picks, subject.pools, subject.name)
    return picks


def _comparison(file: SplitFile, picks: SplitFile, subject: Subject) -> list[tuple[str, str]]:
    """Facts on imported picks: similarity to our own draws, and whether they are published."""
    rows = [(name, compare_with_draw(picks, subject.pools, name)) for name in SAMPLERS]
    split = as_split(picks, subject.name, "coop")
    rows.append(("published", PUBLISHED_PICKS[verify_picks(split, subject.name)]))
    if file.positions:
        try:
            rows.append(("positions", check_positions(file, picks, subject.pools, subject.name)))
        except DataMissingError as error:
            rows.append(("positions", f"NOT used: {error}"))
    if "test" in picks.lists:
        same = picks.lists["test"] == tuple(subject.pools.get("test", ()))
        rows.append(
            (
                "test",
                "the data set's list"
                if same
                else f"NOT used: the file's test list is another one than that of {subject.name}",
            )
        )
    return rows


@click.command("verify", short_help="Check a data set's lists and picks, or a split file.")
@click.argument("what", metavar="NAME|SUITE|FILE", shell_complete=one_of(datasets))
@click.option(
    "--dataset",
    metavar="NAME",
    shell_complete=one_of(datasets),
    help="The data set that a file belongs to.",
)
@kept_split_option
@working("splits verify", live=False)
def verify(what: str, dataset: str | None, store: Path) -> None:
    """Check a data set's lists and picks, or a split file.

    Prints one line per check: ok, FAILED, or - where there is nothing to compare with. The exit
    code is 1 when a check failed, and 3 when a data set is not there.
    """
    suite = registry().datasets.suites().get(what)
    path = None if suite else file_or_name(what)
    if path is not None:
        failed, absent = _report(_of_file(path, dataset, store)), False
    elif dataset is not None:
        raise click.UsageError(f"--dataset is for a file, and {what} is a data set")
    elif suite is None:
        failed, absent = _report(_of_dataset(what, store)), False
    else:
        failed, absent = _suite(suite, store)
    if failed or absent:
        raise click.exceptions.Exit(
            FsbenchError.exit_code if failed else DataMissingError.exit_code
        )


def _suite(names: list[str], store: Path) -> tuple[bool, bool]:
    """Check every data set of a suite; returns (a check failed, a data set is absent)."""
    failed = absent = False
    for name in names:
        say(f"{name}:")
        try:
            failed |= _report(_of_dataset(name, store))
        except DataMissingError as error:
            absent = True
            _print("absent", "data set", str(error))
    return failed, absent


def _report(checks: Iterable[Check]) -> bool:
    """Print each check as it completes; returns True if one failed."""
    failed = False
    for state, name, text in checks:
        failed |= state == FAILED
        _print(state, name, text)
    return failed


def _print(state: str, name: str, text: str) -> None:
    say(f"{state:<7} {name:<12} {' '.join(text.split())}")


def _of_dataset(name: str, store: Path) -> Iterator[Check]:
    subject = opened(name, store)
    whole = SplitFile(Path(name), "", subject.lists, dataset=name)
    yield _run_check("overlap", lambda: checks.check_overlap(whole))
    yield _run_check("classes", lambda: checks.check_classes(whole))
    lists = f"sha256 {lists_digest(subject.pools)}"
    verdict = compare_lists(subject.pools, subject.name)
    if verdict is Lists.UNKNOWN:
        yield OPEN, "published", f"nothing is published for {subject.name}; its lists have {lists}"
        return
    same = verdict is Lists.EQUAL
    text = verdict.value if verdict is Lists.RENAMED else f"{_equal(same)} the published ones"
    yield _state(same), "lists", f"{text}, {lists}"
    for drawn in read_published_draws(subject.name, subject.card.revision, subject.pools):
        yield _state(drawn.equal), "picks", _describe_draw(drawn)


def _describe_draw(drawn: PublishedDraw) -> str:
    """One line that compares a draw with the published picks."""
    setting, split = f"{drawn.shots}-shot, seed {drawn.seed}", drawn.split
    if split is None:
        return f"{setting}: {drawn.problem}"
    picks = lists_digest({"train": split.train, "val": split.val})
    return f"{setting}: {_equal(drawn.equal)} the published picks, sha256 {picks}"


def _of_file(path: Path, dataset: str | None, store: Path) -> Iterator[Check]:
    try:
        file = with_setting(read_split_file(path), None, None)
    except DataMissingError as error:
        yield FAILED, "form", str(error)
        return
    yield OK, "form", TITLES[file.format]
    if file.stated:
        yield _run_check("digest", lambda: f"sha256 {checks.check_digest(file)}, as stated")
    else:
        yield OPEN, "digest", f"the file states none; its lists have sha256 {file.digest}"
    yield _run_check("overlap", lambda: checks.check_overlap(file))
    yield _run_check("classes", lambda: checks.check_classes(file))
    name = dataset or file.dataset
    if name:
        yield from _against(file, name, store)
    elif file.is_draw:
        yield OPEN, "data set", "not compared: give --dataset NAME"
    if not file.is_draw:
        yield _compare_published(file, name)


def _against(file: SplitFile, name: str, store: Path) -> Iterator[Check]:
    """Check a file against its data set."""
    subject = opened(name, store)
    try:
        picks = map_to_items(file, subject.pools, subject.name)
    except DataMissingError as error:
        yield FAILED, "data set", str(error)
        return
    yield OK, "data set", f"every image is in {subject.name}, with the same label and class name"
    if not file.is_draw:
        return
    # Two spellings of one path are detected only after mapping to the data set's images.
    yield _run_check("images", lambda: checks.check_overlap(picks))
    yield _run_check("pools", lambda: checks.check_pools(picks, subject.pools, subject.name))
    if file.positions:
        yield _run_check(
            "positions",
            lambda: checks.check_positions(file, picks, subject.pools, subject.name),
        )
    yield from _setting_checks(picks, subject)


def _setting_checks(picks: SplitFile, subject: Subject) -> Iterator[Check]:
    if picks.shots is None or picks.seed is None:
        yield (
            OPEN,
            "shots",
            "the file does not say which picks it holds (shot_16-seed_1 in its name)",
        )
        return
    yield _run_check("shots", lambda: checks.check_shots(picks, subject.pools, subject.name))
    setting = f"{picks.shots}-shot, seed {picks.seed}"
    verdict = None
    if picks.protocol in ("", "coop"):
        verdict = verify_picks(as_split(picks, subject.name, "coop"), subject.name)
    if verdict is None:
        yield OPEN, "published", f"nothing is published to compare {setting} with"
    else:
        yield _state(verdict), "published", f"{setting}: {_equal(verdict)} the published picks"


def _compare_published(file: SplitFile, name: str) -> Check:
    """Compare lists with the published ones of the named data set, else of the best match."""
    published = published_splits()
    expected = name or next((n for n, p in published.items() if p.file == file.path.name), "")
    equal = [n for n, p in published.items() if p.lists_sha256 == file.digest]
    if equal and expected in ("", *equal):
        verdict = compare_lists(file.lists, equal[0])
        if verdict is Lists.RENAMED:
            return FAILED, "published", f"{equal[0]}: {verdict.value}"
    if expected in published:
        same = expected in equal
        return _state(same), "published", f"{_equal(same)} the published lists of {expected}"
    if equal:
        return OK, "published", f"equal to the published lists of {equal[0]}"
    return OPEN, "published", "no published lists to compare with (--dataset NAME)"


def _run_check(name: str, check: Callable[[], str]) -> Check:
    try:
        return OK, name, check()
    except (DataMissingError, UsageError) as error:
        return FAILED, name, str(error)


def _state(verdict: bool) -> str:
    return OK if verdict else FAILED


def _equal(verdict: bool) -> str:
    return "equal to" if verdict else "NOT"
