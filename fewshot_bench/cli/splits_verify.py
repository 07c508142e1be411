"""`fsbench splits verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.say import say
from fewshot_bench.cli.splits_subject import Subject, file_or_name
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, UsageError

if TYPE_CHECKING:
    from fewshot_bench.splits.model import SplitFile
    from fewshot_bench.splits.published import PublishedDraw

OK, FAILED, OPEN = "ok", "FAILED", "-"
Check = tuple[str, str, str]


@click.command("verify", short_help="Check a data set's lists and picks, or a split file.")
@click.argument("what", metavar="NAME|SUITE|FILE", shell_complete=one_of(datasets))
@click.option(
    "--dataset",
    metavar="NAME",
    shell_complete=one_of(datasets),
    help="The data set that a file belongs to.",
)
def command(what: str, dataset: str | None) -> None:
    """Check a data set's lists and picks, or a split file.

    Prints one line per check: ok, FAILED, or - where there is nothing to compare with. The exit
    code is 1 when a check failed, and 3 when a data set is not there.
    """
    suite = registry().suites().get(what)
    path = None if suite else file_or_name(what)
    if path is not None:
        failed, absent = _report(_of_file(path, dataset)), False
    elif dataset is not None:
        raise click.UsageError(f"--dataset is for a file, and {what} is a data set")
    elif suite is None:
        failed, absent = _report(_of_dataset(what)), False
    else:
        failed, absent = _suite(suite)
    if failed or absent:
        raise click.exceptions.Exit(
            FsbenchError.exit_code if failed else DataMissingError.exit_code
        )


def _suite(names: list[str]) -> tuple[bool, bool]:
    """Check every data set of a suite: whether a check failed, and whether a set is not there."""
    failed = absent = False
    for name in names:
        say(f"{name}:")
        try:
            failed |= _report(_of_dataset(name))
        except DataMissingError as error:
            absent = True
            _print("absent", "data set", str(error))
    return failed, absent


def _report(checks: Iterable[Check]) -> bool:
    """Print checks as they are done; whether one failed."""
    failed = False
    for state, name, text in checks:
        failed |= state == FAILED
        _print(state, name, text)
    return failed


def _print(state: str, name: str, text: str) -> None:
    say(f"{state:<7} {name:<12} {' '.join(text.split())}")


def _of_dataset(name: str) -> Iterator[Check]:
    from fewshot_bench.cli.splits_subject import opened
    from fewshot_bench.splits import checks
    from fewshot_bench.splits.model import SplitFile, lists_digest
    from fewshot_bench.splits.published import published_draws, verified_split

    subject = opened(name)
    whole = SplitFile(Path(name), "", subject.lists, dataset=name)
    yield _checked("overlap", lambda: checks.check_overlap(whole))
    yield _checked("classes", lambda: checks.check_classes(whole))
    lists = f"sha256 {lists_digest(subject.pools)}"
    verdict = verified_split(subject.pools, subject.name)
    if verdict is None:
        yield OPEN, "published", f"nothing is published for {subject.name}; its lists have {lists}"
        return
    yield _state(verdict), "lists", f"{_equal(verdict)} the published ones, {lists}"
    for drawn in published_draws(subject.name, subject.card.revision, subject.pools):
        yield _state(drawn.equal), "picks", _published_draw(drawn)


def _published_draw(drawn: PublishedDraw) -> str:
    """Comparison of a draw with the published one, as a line."""
    from fewshot_bench.splits.model import lists_digest

    setting, split = f"{drawn.shots}-shot, seed {drawn.seed}", drawn.split
    if split is None:
        return f"{setting}: {drawn.problem}"
    picks = lists_digest({"train": split.train, "val": split.val})
    return f"{setting}: {_equal(drawn.equal)} the published picks, sha256 {picks}"


def _of_file(path: Path, dataset: str | None) -> Iterator[Check]:
    from fewshot_bench.splits import checks
    from fewshot_bench.splits.formats import read_split_file
    from fewshot_bench.splits.model import TITLES, with_setting

    try:
        file = with_setting(read_split_file(path), None, None)
    except DataMissingError as error:
        yield FAILED, "form", str(error)
        return
    yield OK, "form", TITLES[file.format]
    if file.stated:
        yield _checked("digest", lambda: f"sha256 {checks.check_digest(file)}, as stated")
    else:
        yield OPEN, "digest", f"the file states none; its lists have sha256 {file.digest}"
    yield _checked("overlap", lambda: checks.check_overlap(file))
    yield _checked("classes", lambda: checks.check_classes(file))
    name = dataset or file.dataset
    if name:
        yield from _against(file, name)
    elif file.is_draw:
        yield OPEN, "data set", "not compared: give --dataset NAME"
    if not file.is_draw:
        yield _published(file, name)


def _against(file: SplitFile, name: str) -> Iterator[Check]:
    """A file beside the data set that it belongs to."""
    from fewshot_bench.cli.splits_subject import opened
    from fewshot_bench.splits import checks
    from fewshot_bench.splits.checks import mapped

    subject = opened(name)
    try:
        found = mapped(file, subject.pools, subject.name)
    except DataMissingError as error:
        yield FAILED, "data set", str(error)
        return
    yield OK, "data set", f"every image is in {subject.name}, with the same label and class name"
    if not file.is_draw:
        return
    # Two spellings of one path are seen once they are the data set's images.
    yield _checked("images", lambda: checks.check_overlap(found))
    yield _checked("pools", lambda: checks.check_pools(found, subject.pools, subject.name))
    if file.positions:
        yield _checked(
            "positions",
            lambda: checks.check_positions(file, found, subject.pools, subject.name),
        )
    yield from _setting_checks(found, subject)


def _setting_checks(found: SplitFile, subject: Subject) -> Iterator[Check]:
    from fewshot_bench.splits import checks
    from fewshot_bench.splits.published import as_split, verified_picks

    if found.shots is None or found.seed is None:
        yield (
            OPEN,
            "shots",
            "the file does not say which picks it holds (shot_16-seed_1 in its name)",
        )
        return
    yield _checked("shots", lambda: checks.check_shots(found, subject.pools, subject.name))
    setting = f"{found.shots}-shot, seed {found.seed}"
    verdict = None
    if found.protocol in ("", "coop"):
        verdict = verified_picks(as_split(found, subject.name, "coop"), subject.name)
    if verdict is None:
        yield OPEN, "published", f"nothing is published to compare {setting} with"
    else:
        yield _state(verdict), "published", f"{setting}: {_equal(verdict)} the published picks"


def _published(file: SplitFile, name: str) -> Check:
    """Lists beside the published ones of their data set, or of the one that they belong to."""
    from fewshot_bench.splits.published import published_splits

    known = published_splits()
    expected = name or next((n for n, p in known.items() if p.file == file.path.name), "")
    equal = [n for n, p in known.items() if p.lists_sha256 == file.digest]
    if expected in known:
        verdict = expected in equal
        return _state(verdict), "published", f"{_equal(verdict)} the published lists of {expected}"
    if equal:
        return OK, "published", f"equal to the published lists of {equal[0]}"
    return OPEN, "published", "no published lists to compare with (--dataset NAME)"


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return OK, name, check()
    except (DataMissingError, UsageError) as error:
        return FAILED, name, str(error)


def _state(verdict: bool) -> str:
    return OK if verdict else FAILED


def _equal(verdict: bool) -> str:
    return "equal to" if verdict else "NOT"
