"""`fsbench splits export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.say import say
from fewshot_bench.cli.splits_subject import Draws, Subject, draw_options, draws_of
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.splits.model import SplitFile


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
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Where to write: a file with the ending of its format, or a folder, which is made.",
)
@click.option("--with-test", is_flag=True, help="Write the test list beside the picks, too.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(
    name: str,
    shots: Any,
    seeds: Any,
    protocol: str,
    val: str,
    format: str | None,
    output: Path,
    with_test: bool,
    force: bool,
) -> None:
    """Write the lists or few-shot picks of a data set to files.

    Without --shots, the train, val and test lists are written. With --shots, the picks of each
    setting are: files named shot_16-seed_1.json in a folder, or one file.
    """
    from fewshot_bench.cli.splits_subject import opened
    from fewshot_bench.splits.formats import ENDINGS, refuse_existing, text_of

    draws = draws_of(shots, seeds, protocol, val)
    format = format or ("coop" if draws is None else "fsbench")
    if format not in ENDINGS:
        raise unknown("format", format, ENDINGS, "fsbench splits export --help")
    if with_test and (draws is None or format == "index"):
        raise UsageError("--with-test is for picks (--shots) in format fsbench or jsonl")
    subject = opened(name)
    files = [_lists(subject)] if draws is None else list(_picks(subject, draws, with_test))
    texts = [text_of(file, format, subject.pools) for file in files]
    paths = _targets(files, output, format)
    refuse_existing(paths, force=force)
    for file, path, text in zip(files, paths, texts, strict=True):
        _write(subject, file, path, text.encode(), force=force)


def _lists(subject: Subject) -> SplitFile:
    from fewshot_bench.splits.model import SplitFile

    revision = subject.card.revision
    return SplitFile(Path(), "", subject.lists, dataset=subject.name, revision=revision)


def _picks(subject: Subject, draws: Draws, with_test: bool) -> Iterator[SplitFile]:
    from fewshot_bench.splits.model import SplitFile

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
    """One path per file; UsageError when several files were to become one."""
    from fewshot_bench.splits.formats import ENDINGS

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
    from fewshot_bench.splits.imported import safe_name
    from fewshot_bench.splits.published import published_splits

    if file.is_draw:
        return f"shot_{file.shots}-seed_{file.seed}{ending}"
    known = published_splits().get(file.dataset)
    if known is not None and Path(known.file).suffix == ending:
        return known.file
    return f"split_{safe_name(file.dataset)}{ending}"


def _write(subject: Subject, file: SplitFile, path: Path, content: bytes, *, force: bool) -> None:
    from fewshot_bench.splits.formats import place
    from fewshot_bench.splits.published import verified_file

    place(path, content, force=force)
    counts = ", ".join(f"{len(items)} {role}" for role, items in file.lists.items())
    say(f"{path}: {counts}")
    say(f"  {'picks' if file.is_draw else 'lists'} sha256 {file.digest}")
    if not file.is_draw and verified_file(content, subject.name):
        say("  equal to the published file, byte for byte")
