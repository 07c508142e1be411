"""`fsbench data texts`: one file for `--texts` of files that others publish, which none ships.

The known ones (`texts.toml`) are recognized by their digests, with their repository and license.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.class_texts import read_lists, tidy
from fewshot_bench.cli.output import say
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.files import read_regular, write_whole
from fewshot_bench.utils.text import counted

DIGITS = 16
# How a descriptor continues "{name}, which" in VDT's code, by its beginning; "has" before others.
_VERBS = ("has", "often", "typically", "may", "can")
_BEFORE = {"a": "is ", "used": "is ", **dict.fromkeys(_VERBS, "")}


def write_sentence(name: str, descriptor: str, end: str) -> str:
    """The prompt of a descriptor as in VDT (load.py): "antlers" begins with an a, as "a tail".

    An empty descriptor, of a class without any, leaves "name, which has".
    """
    before = next((word for start, word in _BEFORE.items() if descriptor.startswith(start)), "has ")
    return f"{name.replace('_', ' ')}, which {before}{descriptor}{end}"


def read_known(content: bytes) -> dict[str, Any]:
    """The source of a known file, and its data set; empty for another one."""
    digest = hashlib.sha256(content).hexdigest()[:DIGITS]
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    for source in table["source"]:
        for dataset, known in source["files"].items():
            if known == digest:
                return {**source, "dataset": dataset}
    return {}


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
    entries: list[tuple[str, str, str]] = []
    for given in files:
        dataset, _, place = given.partition("=")
        if not place:
            raise UsageError(f"'{given}': expected the data set of the file, as dtd=FILE.json")
        try:
            content = read_regular(Path(place))
        except OSError as error:
            raise UsageError(f"'{place}' cannot be read: {error.strerror}") from None
        known = read_known(content)
        used = form or known.get("form", "")
        if not used:
            raise UsageError(f"'{place}' is no known file: say --form lists, or vdt")
        entries += _convert(content, place, dataset, used)
        say(f"{dataset}: {_describe(known, dataset)}; read as {used}")
    made = tidy(output.name, f"texts {output}", entries)
    write_whole(output, made.content + b"\n")
    count = sum(len(each) for section in made.sections.values() for each in section.values())
    say(f"{counted(count, 'text')} in {output}: fsbench run --texts {output}")


def _convert(content: bytes, place: str, dataset: str, form: str) -> Iterator[tuple[str, str, str]]:
    where, end = f"texts {place}", "." if dataset.startswith("imagenet") else ""
    for name, given in read_lists(content.decode("utf-8-sig"), where).items():
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise UsageError(f"{where}, '{name}': {str(given)!r:.60}: expected a list of texts")
        for each in given or [""] * (form == "vdt"):
            yield dataset, name, write_sentence(name, each, end) if form == "vdt" else each


def _describe(known: dict[str, Any], dataset: str) -> str:
    if not known:
        return "no known file, whose license and origin are yours to know"
    other = "" if known["dataset"] == dataset else f" for {known['dataset']}, NOT for {dataset}"
    place = f"{known['repository']}, {known['folder']}"
    return f"texts of {place}{other} (license: {known['license']}; do not pass them on)"
