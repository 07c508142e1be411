"""`fsbench data texts`: one file for `--texts` of files that others publish, which none ships.

The known ones (`texts.toml`) are recognized by their digests, with their repository and license.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from fewshot_bench.api.class_texts import ClassTexts, Entry, read_entries
from fewshot_bench.api.file_texts import LONG
from fewshot_bench.api.option_files import digest_file
from fewshot_bench.cli.output import say
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.files import write_whole

# How a descriptor continues "{name}, which" in VDT's code, by its beginning; "has" before others.
_BEFORE = {
    "a": " is",
    "used": " is",
    **dict.fromkeys(("has", "often", "typically", "may", "can"), ""),
}


def write_sentence(name: str, descriptor: str, end: str) -> str:
    """The prompt of a descriptor as in VDT (load.py): "antlers" begins with an a, as "a tail"."""
    before = next((word for start, word in _BEFORE.items() if descriptor.startswith(start)), " has")
    return f"{name.replace('_', ' ')}, which{before} {descriptor}{end}"


@click.command("texts", short_help="Make one file for --texts of published ones.")
@click.argument("files", metavar="SET=FILE...", nargs=-1, required=True)
@click.option(
    "--form",
    type=click.Choice(("lists", "vdt")),
    help="lists: texts by class (CuPL, MPVR); vdt: descriptors by class (default: a known file's).",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FILE.json")
def texts(files: tuple[str, ...], form: str | None, output: Path) -> None:
    """Make one file for `fsbench run --texts` of JSON files with texts or descriptors by class.

    Name the data set of each file: dtd=descriptors_dtd.json. Files are the user's own: fsbench
    ships and fetches none, and says what is known of their licenses.
    """
    made = ClassTexts.of(output.name, (entry for file in files for entry in _read(file, form)))
    write_whole(output, made.content + b"\n")
    say(f"made {output}: fsbench run --texts {output}")


def _read(given: str, form: str | None) -> Iterator[Entry]:
    """The data set of a published file, and its source."""
    dataset, _, place = given.partition("=")
    if not place:
        raise UsageError(f"'{given}': expected the data set of the file, as dtd=FILE.json")
    entries = [*read_entries(Path(place))]
    digest = digest_file(Path(place))[:LONG]
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    told, used = "no known file, whose license and origin are yours to know", form
    for source in table["source"]:
        if known := next((n for n, own in source["files"].items() if own == digest), ""):
            used = form or source["form"]
            told = f"{source['repository']}, {source['folder']}, file for {known}; license: "
            told += f"{source['license']}, do not pass it on"
    if not used:
        raise UsageError(f"'{place}' is no known file: say --form lists, or vdt")
    say(f"{dataset}: {told}; read as {used}")
    end = "." if dataset.startswith("imagenet") else ""
    for _, name, lines in entries:
        if used == "vdt":
            # A class without descriptors has one that is empty.
            lines = [write_sentence(name, each, end) for each in lines or [""]]
        yield dataset, name, lines
