"""`fsbench data prepare`: fetch and unpack public data sets, or say how to get them.

One call at a time writes to a data root; nothing is asked unless a person sits at a terminal.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.dataset import DATA_VARIABLE, Preparable, Recipe, data_roots
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, several_of, suites
from fewshot_bench.cli.options import NAMES, PathName
from fewshot_bench.cli.output import say
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.data import places
from fewshot_bench.plugins.data.download import digest_titles
from fewshot_bench.plugins.data.prepare import (
    Target,
    check_writable,
    describe_size,
    give_split,
    missing_files,
    needs_agreement,
    prepare,
    steps,
    would_write,
)
from fewshot_bench.utils.errors import ContractError, DataMissingError, FsbenchError, UsageError
from fewshot_bench.utils.files import same_content
from fewshot_bench.utils.locks import exclusive
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import printable


@click.command("prepare", short_help="Fetch and unpack public data sets, or say how to get them.")
@click.argument(
    "names", metavar="NAME[,NAME]|SUITE", type=NAMES, shell_complete=several_of(datasets, suites)
)
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
def command(
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
    target = _target(root, yes, keep_archives)
    recipes, failed = _recipes(chosen)
    if split_file is not None and not any(recipes.values()):
        raise UsageError(f"--split-file {split_file}: {chosen[0]} has no list of images to give")
    if dry_run:
        for name, recipe in recipes.items():
            _describe(name, recipe, target, split_file)
        _refuse([], failed)
        return
    if not any(recipes.values()) and not failed:
        say(f"nothing to fetch: {', '.join(chosen)} need no download")
        return
    writing = split_file is not None or any(
        would_write(name, recipe, target) for name, recipe in recipes.items() if recipe is not None
    )
    with _lock(target.root, writing), working("data prepare"):
        missing = [
            name
            for name, recipe in recipes.items()
            if recipe is not None and not _prepare_one(name, recipe, target, split_file, yes)
        ]
    _report(recipes, missing, failed, target)


def _recipes(names: list[str]) -> tuple[dict[str, Recipe | None], list[str]]:
    """The recipe of each data set, and the names of those that failed (reported on stderr).

    If only one data set is named, its error is raised.
    """
    recipes, failed = {}, []
    for name in names:
        try:
            recipes[name] = _recipe(name)
        except FsbenchError as error:
            if len(names) == 1:
                raise
            click.echo(printable(f"{name}: cannot be prepared: {error}"), err=True)
            failed.append(name)
    return recipes, failed


@contextmanager
def _lock(root: Path, writing: bool) -> Iterator[None]:
    """Allow one `prepare` at a time to write to a data root; reading needs no lock.

    The lock ends with its process.
    """
    if not writing:
        yield
        return
    check_writable(root)
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            waiting = partial(say, "waiting for another fsbench data prepare to end")
            try:
                stack.enter_context(exclusive(root, places.LOCK, waiting))
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
                (root / places.DOWNLOADS).rmdir()


def _target(root: Path | None, yes: bool, keep_archives: bool) -> Target:
    roots = data_roots()
    if root is None:
        chosen, why = roots[0], f"first of {DATA_VARIABLE}, or ./data"
    else:
        chosen, why = root.expanduser(), "--root"
        roots = (chosen,)
    say(f"data root: {chosen} ({why})")
    return Target(chosen, roots, yes, keep_archives)


def _recipe(name: str) -> Recipe | None:
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
    places.check_recipe(name, recipe.files)
    return recipe if recipe.files or recipe.by_hand else None


def _prepare_one(
    name: str, recipe: Recipe, target: Target, split_file: Path | None, yes: bool
) -> bool:
    """Prepare one data set; returns True if it is complete."""
    _say(name)
    if split_file is not None:
        given = give_split(name, recipe, target, split_file, other=yes)
        _say(f"  {given}{_not_read(name, recipe, target)}")
    with current().aside():
        target = replace(target, large=_ask_for_large(name, recipe, target))
    missing = prepare(name, recipe, target, lambda line: _say(f"  {line}"))
    todo = steps(name, recipe, missing, target) or _missing_steps(name, recipe, target)
    if todo:
        _say(f"  to get what is missing (paths are below {target.root}):")
    for number, step in enumerate(todo, 1):
        _say(f"    {number}. {step}")
    return not todo


def _say(line: str) -> None:
    """Print a line above the one of the progress."""
    with current().aside():
        say(line)


def _not_read(name: str, recipe: Recipe, target: Target) -> str:
    """A remark if the data set reads another split file than the one in the target's place."""
    split = next(file for file in recipe.files if file.split)
    read = places.locate(split, data_roots()) if _is_searched(target.root) else None
    if read is None or same_content(read, target.root / split.place):
        return ""
    return (
        f"; NOT in use: {name} reads {read} before it (remove that one, or name {target.root} "
        f"first in {DATA_VARIABLE})"
    )


def _missing_steps(name: str, recipe: Recipe, target: Target) -> list[str]:
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
    large = [file for file in missing_files(name, recipe, target) if needs_agreement(file)]
    if target.large or not large or not sys.stdin.isatty():
        return target.large
    listed = ", ".join(f"{file.name} ({describe_size(file)})" for file in large)
    return click.confirm(f"  download {listed}?")


def _describe(name: str, recipe: Recipe | None, target: Target, split_file: Path | None) -> None:
    """Print the steps for one data set."""
    if recipe is None:
        say(f"{name}: nothing to fetch")
        return
    say(name)
    for file in recipe.files:
        path, goal = places.locate(file, target.roots), target.root / file.place
        if file.split and split_file is not None:
            say(f"  {file.name}: would be taken from {split_file} to {goal}")
        elif path is not None:
            say(f"  {file.name}: already at {path}")
        else:
            what = "unpacked into" if file.unpack else "placed at"
            say(f"  {file.name}: {describe_size(file)}, {digest_titles(file)}, {what} {goal}")
            for url in file.urls:
                say(f"    from {url}")
            if not file.urls:
                say("    by hand")
    for step in recipe.by_hand:
        say(f"  by hand: {step}")


def _report(
    recipes: dict[str, Recipe | None], missing: list[str], failed: list[str], target: Target
) -> None:
    """Report the state and the next step; DataMissingError when something is missing."""
    there = [name for name in recipes if name not in missing]
    if there:
        say(f"there now: {', '.join(there)}")
    if not _is_searched(target.root):
        say(f"next: set {DATA_VARIABLE} to {target.root.resolve()}, so that it is found")
    prepared = [name for name in there if recipes[name] is not None]
    if prepared:
        say(f"next: fsbench data verify {','.join(prepared)}")
    _refuse(missing, failed)


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
