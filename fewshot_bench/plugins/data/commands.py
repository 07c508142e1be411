"""`fsbench data`: `prepare`, `status` and `verify`.

One call of `prepare` at a time writes to a data root; nothing is asked unless a person sits at a
terminal.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click
import msgspec

from fewshot_bench.api.dataset import DATA_VARIABLE, Preparable, Recipe, data_roots
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, several_of, suites
from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import (
    NAMES,
    PathName,
    format_option,
    kept_split_option,
    output_option,
)
from fewshot_bench.cli.output import aligned, check_file, say, terminal_width, write_bytes
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.data import prepare as fetching
from fewshot_bench.plugins.data.download import digest_titles
from fewshot_bench.plugins.data.prepare import Target
from fewshot_bench.runner.cell_log import lose_output
from fewshot_bench.utils.errors import ContractError, DataMissingError, FsbenchError, UsageError
from fewshot_bench.utils.files import same_content
from fewshot_bench.utils.locks import exclusive
from fewshot_bench.utils.progress import current, over
from fewshot_bench.utils.text import printable, size_text

if TYPE_CHECKING:
    from fewshot_bench.plugins.data.status import Status
    from fewshot_bench.plugins.data.verify import Report

LOCK = "fsbench-prepare"
MAX_JOBS = 8
COLUMNS = ("data set", "state", "classes", "train/val/test", "size", "verified", "folder")
NUMBERS = tuple(COLUMNS.index(name) for name in ("classes", "size"))
UNKNOWN = "-"
_complete = several_of(datasets, suites)


@click.group("data", cls=LazyGroup, short_help="Fetch, list and verify data sets.")
def data() -> None:
    """Fetch data sets, see what is there, and check it."""


data.add_lazy(
    "texts",
    "fewshot_bench.plugins.data.texts:texts",
    "Make one file for --texts of published ones.",
)


@data.command("prepare", short_help="Fetch and unpack public data sets, or say how to get them.")
@click.argument("names", metavar="NAME[,NAME]|SUITE", type=NAMES, shell_complete=_complete)
@click.option(
    "--root",
    type=PathName(path_type=Path),
    help="Data root to put everything below [default: first folder of FSBENCH_DATA, or ./data].",
)
@click.option("--yes", is_flag=True, help="Agree to downloads of more than 2 GB.")
@click.option("--keep-archives", is_flag=True, help="Keep downloaded archives after unpacking.")
@click.option(
    "--split-file",
    type=PathName(path_type=Path),
    help="Use this file as the split file of the one data set that is named.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and do nothing.")
def prepare(
    names: tuple[str, ...],
    root: Path | None,
    yes: bool,
    keep_archives: bool,
    split_file: Path | None,
    dry_run: bool,
) -> None:
    """Fetch and unpack public data sets, or say how to get them.

    What is there already, in the layout of CoOp, CLIP-LoRA or torchvision, is not fetched again.
    Broken downloads go on where they stopped. Nothing is asked unless you sit at a terminal.
    """
    chosen = registry().expand_datasets(names)
    if split_file is not None and len(chosen) != 1:
        raise UsageError(f"--split-file belongs to one data set, {len(chosen)} are named")
    roots, why = data_roots(), f"first of {DATA_VARIABLE}, or ./data"
    if root is not None:
        roots, why = (root.expanduser(),), "--root"
    target = Target(roots[0], roots, yes, keep_archives)
    say(f"data root: {target.root} ({why})")
    every, failed = _read_recipes(chosen)
    recipes = {name: recipe for name, recipe in every.items() if recipe is not None}
    if split_file is not None and not recipes:
        raise UsageError(f"--split-file {split_file}: {chosen[0]} has no list of images to give")
    if dry_run:
        for name, recipe in every.items():
            _describe(name, recipe, target, split_file)
        _refuse([], failed)
        return
    if not recipes and not failed:
        say(f"nothing to fetch: {', '.join(chosen)} need no download")
        return
    writing = split_file is not None or any(
        fetching.would_write(name, recipe, target) for name, recipe in recipes.items()
    )
    with _lock(target.root, writing), working("data prepare"):
        missing = [
            name
            for name, recipe in recipes.items()
            if not _prepare_set(name, recipe, target, split_file, yes)
        ]
    there = [name for name in every if name not in missing]
    if there:
        say(f"there now: {', '.join(there)}")
    if not _is_searched(target.root):
        say(f"next: set {DATA_VARIABLE} to {target.root.resolve()}, so that it is found")
    prepared = [name for name in there if name in recipes]
    if prepared:
        say(f"next: fsbench data verify {','.join(prepared)}")
    _refuse(missing, failed)


def _read_recipes(names: list[str]) -> tuple[dict[str, Recipe | None], list[str]]:
    """The recipe of each data set, and the names of those that failed (reported on stderr).

    If only one data set is named, its error is raised.
    """
    recipes, failed = {}, []
    for name in names:
        try:
            recipes[name] = _read_recipe(name)
        except FsbenchError as error:
            if len(names) == 1:
                raise
            click.echo(printable(f"{name}: cannot be prepared: {error}"), err=True)
            failed.append(name)
    return recipes, failed


def _read_recipe(name: str) -> Recipe | None:
    """The recipe of a data set; None when it has none."""
    try:
        dataset = registry().dataset(name)
        if not isinstance(dataset, Preparable):
            return None
        recipe: Any = dataset.recipe()
    except FsbenchError:
        raise
    except Exception as error:
        raise ContractError(f"recipe() of '{name}': {type(error).__name__}: {error}") from None
    if not isinstance(recipe, Recipe):
        raise ContractError(f"recipe() of '{name}' gives {recipe!r}, expected a Recipe")
    fetching.check_recipe(name, recipe.files)
    return recipe if recipe.files or recipe.by_hand else None


@contextmanager
def _lock(root: Path, writing: bool) -> Iterator[None]:
    """Allow one `prepare` at a time to write to a data root; reading needs no lock.

    The lock ends with its process.
    """
    if not writing:
        yield
        return
    fetching.check_writable(root)
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            waiting = partial(say, "waiting for another fsbench data prepare to end")
            try:
                stack.enter_context(exclusive(root, LOCK, waiting))
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise
                say("files on this disk cannot be locked: run one fsbench data prepare at a time")
            yield
        except OSError as error:
            raise DataMissingError(
                f"{error.filename or root} cannot be written ({error.strerror or error}): choose a "
                "folder to write to with --root"
            ) from None
        finally:
            with suppress(OSError):
                (root / fetching.DOWNLOADS).rmdir()


def _prepare_set(
    name: str, recipe: Recipe, target: Target, split_file: Path | None, yes: bool
) -> bool:
    """Prepare one data set; returns True if it is complete."""
    say(name)
    if split_file is not None:
        given = fetching.give_split(name, recipe, target, split_file, other=yes)
        say(f"  {given}{_describe_other_split(name, recipe, target)}")
    with current().aside():
        target = replace(target, large=_ask_for_large(name, recipe, target))
    missing = fetching.prepare(name, recipe, target, lambda line: say(f"  {line}"))
    todo = fetching.list_steps(name, recipe, missing, target)
    todo = todo or _list_missing_steps(name, recipe, target)
    if todo:
        say(f"  to get what is missing (paths are below {target.root}):")
    for number, step in enumerate(todo, 1):
        say(f"    {number}. {step}")
    return not todo


def _describe_other_split(name: str, recipe: Recipe, target: Target) -> str:
    """A remark if the data set reads another split file than the one in the target's place."""
    split = next(file for file in recipe.files if file.split)
    read = fetching.locate(split, data_roots()) if _is_searched(target.root) else None
    if read is None or same_content(read, target.root / split.place):
        return ""
    return (
        f"; NOT in use: {name} reads {read} before it (remove that one, or name {target.root} "
        f"first in {DATA_VARIABLE})"
    )


def _list_missing_steps(name: str, recipe: Recipe, target: Target) -> list[str]:
    """Steps for what a data set lacks although all files of its recipe are there.

    Folders count as there when they hold anything, as after an archive was unpacked by hand in
    part. Files that are read without unpacking have no such folders, and listing them takes long.
    """
    in_place = bool(recipe.files) and not any(file.unpack for file in recipe.files)
    if in_place or (recipe.files and not _is_searched(target.root)):
        return []
    try:
        with registry().blaming(name):
            registry().dataset(name).items()
    except DataMissingError as error:
        return [str(error)] if recipe.files else list(recipe.by_hand)
    except FsbenchError:
        # Another fault than missing files is for fsbench data verify to name.
        return []
    return []


def _is_searched(root: Path) -> bool:
    """True for a folder in which data sets look for their files."""
    return root.resolve() in [folder.resolve() for folder in data_roots()]


def _ask_for_large(name: str, recipe: Recipe, target: Target) -> bool:
    """True when large downloads may start: by --yes, or by asking at a terminal."""
    missing = fetching.missing_files(name, recipe, target)
    large = [file for file in missing if fetching.needs_agreement(file)]
    if target.large or not large or not sys.stdin.isatty():
        return target.large
    listed = ", ".join(f"{file.name} ({fetching.describe_size(file)})" for file in large)
    return click.confirm(f"  download {listed}?")


def _describe(name: str, recipe: Recipe | None, target: Target, split_file: Path | None) -> None:
    """Print the steps for one data set."""
    if recipe is None:
        say(f"{name}: nothing to fetch")
        return
    say(name)
    for file in recipe.files:
        path, goal = fetching.locate(file, target.roots), target.root / file.place
        if file.split and split_file is not None:
            say(f"  {file.name}: would be taken from {split_file} to {goal}")
        elif path is not None:
            say(f"  {file.name}: already at {path}")
        else:
            what = "unpacked into" if file.unpack else "placed at"
            size = fetching.describe_size(file)
            say(f"  {file.name}: {size}, {digest_titles(file)}, {what} {goal}")
            for source in [f"from {url}" for url in file.urls] or ["by hand"]:
                say(f"    {source}")
    for step in recipe.by_hand:
        say(f"  by hand: {step}")


def _refuse(missing: list[str], failed: list[str]) -> None:
    """Raise DataMissingError if data sets lack files or failed."""
    problems = []
    if missing:
        names = ", ".join(missing)
        problems.append(f"not all files are there for {names}: the steps above say how to get them")
    if failed:
        problems.append(f"{', '.join(failed)} cannot be prepared: the reason stands above")
    if problems:
        raise DataMissingError("; ".join(problems))


@data.command("status", short_help="Show which data sets are there, and where.")
@click.argument(
    "names", metavar="[NAME[,NAME]|SUITE]...", type=NAMES, shell_complete=_complete, nargs=-1
)
@format_option(("terminal", "json"), "How to write it.")
@kept_split_option
@working("data status", live=False)
def status(names: tuple[tuple[str, ...], ...], form: str, store: Path) -> None:
    """Show which data sets are there, and where.

    Without names: every registered data set. No image is opened; fsbench data verify does that.
    """
    from fewshot_bench.plugins.data.status import status_of

    plugins = registry()
    everything = [name for name in plugins.datasets.entries if not name.endswith(":")]
    chosen = plugins.expand_datasets(chain.from_iterable(names)) if names else everything
    statuses = []
    for name in over(chosen, "data sets"):
        with lose_output():
            statuses.append(status_of(name, partial(plugins.dataset, store=store)))
    if form == "json":
        content = {
            "variable": DATA_VARIABLE,
            "value": os.environ.get(DATA_VARIABLE) or None,
            "roots": [{"path": str(root), "exists": os.path.isdir(root)} for root in data_roots()],
            "datasets": msgspec.to_builtins(statuses),
        }
        say(json.dumps(content, indent=2))
        return
    is_set = "is set:" if os.environ.get(DATA_VARIABLE) else "is not set: data is looked for in"
    roots = ", ".join(f"{root}{_find_trouble(root)}" for root in data_roots())
    say(f"{DATA_VARIABLE} {is_set} {roots}\n")
    _print_table([_make_row(status) for status in statuses])
    steps = _list_next_steps(statuses)
    if steps:
        say("\nnext steps:")
    for line in steps:
        say(f"  {' '.join(line.split())}")


def _find_trouble(root: Path) -> str:
    """The reason why a data root cannot be listed, in parentheses; empty if it can."""
    try:
        os.scandir(root).close()
    except (FileNotFoundError, NotADirectoryError):
        return " (does not exist)"
    except OSError as error:
        return f" (cannot be read: {error.strerror})"
    return ""


def _list_next_steps(statuses: list[Status]) -> list[str]:
    """One line per data set that is not ready; two or more `plain` ones share one line."""
    plain = [status.name for status in statuses if status.plain]
    together = plain if len(plain) > 1 else []
    lines = [f"{s.name}: {s.step}" for s in statuses if s.step and s.name not in together]
    if together:
        lines.append(
            f"{', '.join(together)}: fsbench data prepare NAME fetches a set or says how to get it;"
            " fsbench data status NAME says where it is looked for"
        )
    return lines


def _make_row(status: Status) -> tuple[str, ...]:
    """The cells of `COLUMNS`; what differs from the published set is shown as `8 of 10`."""
    from fewshot_bench.plugins.data.status import join_counts

    counts, expected_counts = (
        join_counts(counts) if counts else UNKNOWN
        for counts in (status.counts, status.expected_counts or status.counts)
    )
    classes, expected_classes = (
        UNKNOWN if count is None else f"{count:,}"
        for count in (status.classes, status.expected_classes or status.classes)
    )
    verified = status.verified
    if verified is None:
        verification = "no"
    elif not status.current:
        verification = f"changed since {verified.day}"
    else:
        verification = f"{verified.day}, differs" if verified.differs else verified.day
    return (
        status.name,
        status.state,
        classes if classes == expected_classes else f"{classes} of {expected_classes}",
        counts if counts == expected_counts else f"{counts} of {expected_counts}",
        UNKNOWN if status.bytes is None else size_text(status.bytes),
        verification,
        status.folder or UNKNOWN,
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns; on a terminal that is too narrow, the facts below each name."""
    lines = list(aligned([COLUMNS, *rows], NUMBERS))
    width = terminal_width()
    if width is None or max(map(len, lines)) <= width:
        for line in lines:
            say(line)
        return
    for name, *values in rows:
        facts = [f"{head} {value}" for head, value in zip(COLUMNS[1:], values, strict=True)]
        say(name)
        text = ", ".join(facts)
        for line in wrap(text, width - 2, break_long_words=False, break_on_hyphens=False):
            say(f"  {line}")


@data.command("verify", short_help="Check every image, the counts and the split of a data set.")
@click.argument(
    "names",
    metavar="NAME[,NAME]|SUITE...",
    type=NAMES,
    shell_complete=_complete,
    nargs=-1,
    required=True,
)
@click.option("--strict", is_flag=True, help="Exit with 1 where something differs.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=lambda: min(MAX_JOBS, os.cpu_count() or 1),
    show_default=f"CPU cores, at most {MAX_JOBS}",
    metavar="N",
    help="Workers that read and decode images.",
)
@kept_split_option
@output_option("Write every pair of images that stands in two pools to this file.", "FILE.csv")
def verify(
    names: tuple[tuple[str, ...], ...], strict: bool, jobs: int, store: Path, output: Path | None
) -> None:
    """Check every image, the counts and the split of a data set.

    Each check ends as ok, differs (a warning) or FAILED.
    """
    from fewshot_bench.plugins.data.verify import DIFFERS, FAILED, as_csv

    if output is not None:
        check_file("--output", output, (".csv",))
    chosen = registry().expand_datasets(chain.from_iterable(names))
    reports = [_verify_set(name, store, jobs) for name in chosen]
    if output is not None:
        rows = [(report.name, pair) for report in reports for pair in report.pairs]
        write_bytes(output, as_csv(rows).encode())
        say(f"{len(rows):,} pairs written to {output}")
    if any(report.checks_in(FAILED) for report in reports):
        raise click.exceptions.Exit(DataMissingError.exit_code)
    if strict and any(report.checks_in(DIFFERS) for report in reports):
        raise click.exceptions.Exit(FsbenchError.exit_code)


def _verify_set(name: str, store: Path, jobs: int) -> Report:
    """Verify one data set, print its report, and store the outcome for `fsbench data status`."""
    from fewshot_bench.plugins.data.status import keep_outcome
    from fewshot_bench.plugins.data.verify import DIFFERS, FAILED, verify

    with working("data verify"), lose_output():
        report = verify(name, partial(registry().dataset, store=store), jobs)
    card, width = report.card, max(len(check.name) for check in report.checks)
    say(f"{name}{f' in {card.folder}' if card is not None and card.folder else ''}")
    for check in report.checks:
        say(f"  {check.state:<8} {check.name:<{width}}  {' '.join(check.text.split())}")
        for line in check.details:
            say(f"           {line}")
    failed, differs = report.checks_in(FAILED), report.checks_in(DIFFERS)
    verdict = f"verified; differs: {', '.join(differs)}" if differs else "verified"
    if failed:
        verdict = f"FAILED: {', '.join(failed)}"
    say(f"{name}: {verdict}")
    try:
        if card is not None:
            keep_outcome(name, card, report.images, differs, passed=not failed)
    except OSError as error:
        click.echo(
            f"warning: fsbench data status will not know of this: {error} "
            "(set FSBENCH_CACHE to a folder that can be written to)",
            err=True,
        )
    return report
