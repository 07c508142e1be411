"""`fsbench verify`: recompute what bundles say, and compare them with other submitters' cells."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from fewshot_bench.analysis.formats.markdown import escape
from fewshot_bench.analysis.gathering import Entry, Gathered, compare_pair, gather
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.cli.options import PATH, format_option
from fewshot_bench.cli.working import working
from fewshot_bench.store.bundle import BundleError, read_manifest, unpack
from fewshot_bench.store.merge import differing_facts
from fewshot_bench.store.standing import LEVELS, RE_RUN, SUBMITTED, UNVERIFIED
from fewshot_bench.utils.text import counted, limited, message, printable

# Levels from the lowest, as they are counted; ids and cells that are named in one line.
_ORDER = (UNVERIFIED, *LEVELS)
_CELLS, _IDS = 3, 5
DISAGREEMENT = "disagreement"


@dataclass(frozen=True)
class Line:
    """One finding: its kind, what it says, and lines below it."""

    kind: str
    text: str
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A bundle with its cells; refused: why nothing of it can be used."""

    path: Path
    submitter: str = ""
    refused: str = ""
    entries: tuple[Entry, ...] = ()
    lines: tuple[Line, ...] = ()

    @property
    def code(self) -> int:
        """The exit code for this bundle."""
        if self.refused:
            return BundleError.exit_code
        lowest = {entry.standing.level for entry in self.entries} & {UNVERIFIED, SUBMITTED}
        twice = any(self.submitter in entry.disagrees_with for entry in self.entries)
        return int(bool(lowest) or twice or any(line.kind == UNVERIFIED for line in self.lines))

    @property
    def head(self) -> str:
        """The bundle and its numbers of cells by level."""
        if self.refused:
            return f"{self.path}: refused"
        counts = Counter(entry.standing.level for entry in self.entries)
        told = ", ".join(f"{counts[name]:,} {name}" for name in reversed(_ORDER) if counts[name])
        return f"{self.path}: {counted(len(self.entries), 'cell')} of {self.submitter}: {told}"


@click.command("verify", short_help="Recompute every number of bundles from their logits.")
@click.argument("bundles", metavar="BUNDLE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--beside",
    metavar="SOURCE",
    type=PATH,
    multiple=True,
    help="Bundle or store of others to compare with; may be repeated.",
)
@format_option(("text", "markdown", "json"), "Markdown is for a pull request.")
@click.pass_context
@working("verify", live=False)
def command(
    ctx: click.Context, bundles: tuple[Path, ...], beside: tuple[Path, ...], form: str
) -> None:
    """Recompute every metric and digest of bundles from the logits that they hold.

    A cell is verified if its numbers follow from its logits and its queries are those of the data
    set, re-run if another submitter's cell agrees within noise. Nothing of a bundle is run. The
    exit code is 0 if all cells are verified or re-run, 1 if not or if the submitter has others of
    the same cells, 2 for a file that is refused.
    """
    with TemporaryDirectory() as scratch:
        checked = check(bundles, beside, Path(scratch))
    click.echo(_FORMS[form](checked).rstrip("\n"))
    ctx.exit(max(each.code for each in checked))


def check(bundles: Sequence[Path], beside: Sequence[Path], scratch: Path) -> list[Checked]:
    """Check bundles beside each other and other sources; scratch: an empty folder."""
    folders, refused = dict[Path, Path](), dict[Path, str]()
    for number, path in enumerate(dict.fromkeys(bundles)):
        try:
            folders[path] = unpack(path, scratch / f"bundle-{number}").path
        except BundleError as error:
            refused[path] = str(error)
    gathered = gather([*folders.values(), *beside], scratch)
    found = {path: _check(path, folder, gathered) for path, folder in folders.items()}
    every = dict.fromkeys(bundles)
    return [found.get(path) or Checked(path, refused=refused[path]) for path in every]


def _check(path: Path, folder: Path, gathered: Gathered) -> Checked:
    manifest = read_manifest(folder)
    assert manifest is not None
    entries = tuple(entry for entry in gathered.entries if entry.store.path == folder)
    lines = []
    if manifest.signature not in ([], [signature_of([entry.record for entry in entries])]):
        lines.append(Line(UNVERIFIED, "its signature is not that of its records"))
    lines += [*_reasons(entries), *_agreements(entries), *_disagreements(entries, gathered)]
    return Checked(path, manifest.submitter, "", entries, tuple(lines))


def _reasons(entries: Sequence[Entry]) -> Iterator[Line]:
    """Why cells are no more than unverified or submitted, those of one reason together."""
    cells = defaultdict[tuple[str, str], list[str]](list)
    for entry in entries:
        for reason in entry.standing.reasons:
            cells[entry.standing.level, reason].append(entry.record.spec.describe())
    for (level, reason), names in sorted(cells.items(), key=lambda at: _ORDER.index(at[0][0])):
        yield Line(level, f"{limited(names, _CELLS, '; ')}: {reason}")


def _agreements(entries: Sequence[Entry]) -> Iterator[Line]:
    counts = Counter(n for e in entries if e.standing.level == RE_RUN for n in e.agrees_with)
    for name, count in sorted(counts.items()):
        yield Line(
            RE_RUN, f"{counted(count, 'cell')} as {name} has {'them' if count > 1 else 'it'}"
        )


def _disagreements(entries: Sequence[Entry], gathered: Gathered) -> Iterator[Line]:
    same = defaultdict[str, list[Entry]](list)
    for entry in gathered.entries:
        if entry.disagrees_with:
            same[entry.key].append(entry)
    for entry in entries:
        for other in (e for e in same[entry.key] if e.source in entry.disagrees_with):
            pair, sources = compare_pair(entry, other), (entry.source, other.source)
            if pair.agrees:
                continue
            tops = [f"{e.record.metrics['top1']:.2f} % {e.source}" for e in (entry, other)]
            below = ["their queries differ"] if not pair.comparable else []
            for source, ids in zip(sources, (pair.only_first, pair.only_second), strict=True):
                below.append(f"right in {source} alone: {len(ids):,} ({limited(ids, _IDS)})")
            below += differing_facts(entry.record, other.record, *sources)
            said = f"{entry.record.spec.describe()}: {', '.join(tops)}"
            yield Line(DISAGREEMENT, said, tuple(below))


def _as_text(checked: Sequence[Checked]) -> str:
    lines = []
    for each in checked:
        lines.append(each.head + (f": {each.refused}" if each.refused else ""))
        for line in each.lines:
            lines += [f"{line.kind}: {line.text}", *(f"  {text}" for text in line.below)]
    return "\n".join(printable(line) for line in lines)


def _as_markdown(checked: Sequence[Checked]) -> str:
    lines = []
    for each in checked:
        lines += [f"### {escape(printable(each.head))}", ""]
        if each.refused:
            lines.append(escape(message(each.refused)))
        for line in each.lines:
            lines.append(f"- **{line.kind}**: {escape(printable(line.text))}")
            lines += [f"  - {escape(printable(text))}" for text in line.below]
        lines.append("")
    return "\n".join(lines)


def _as_json(checked: Sequence[Checked]) -> str:
    return json.dumps({"bundles": [_plain(each) for each in checked]}, indent=1)


def _plain(checked: Checked) -> dict[str, Any]:
    return {
        "path": str(checked.path),
        "submitter": checked.submitter,
        "refused": checked.refused,
        "cells": [
            {
                "key": entry.key,
                "cell": entry.record.spec.describe(),
                "level": entry.standing.level,
                "reasons": list(entry.standing.reasons),
                "metrics": dict(entry.record.metrics),
                "agrees_with": list(entry.agrees_with),
                "disagrees_with": list(entry.disagrees_with),
            }
            for entry in checked.entries
        ],
        "findings": [
            {"kind": line.kind, "text": line.text, "below": list(line.below)}
            for line in checked.lines
        ],
    }


_FORMS = {"text": _as_text, "markdown": _as_markdown, "json": _as_json}
