"""`fsbench verify`: recompute what bundles say, and compare them with other submitters' cells."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
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
from fewshot_bench.utils.text import counted, limited, printable

# Levels from the lowest, as they are counted; ids and cells that are named in one line.
_ORDER = (UNVERIFIED, *LEVELS)
_CELLS, _IDS = 3, 5


@dataclass(frozen=True)
class Finding:
    """One finding: a level or a disagreement (`kind`), a sentence, and lines below it."""

    kind: str
    text: str
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A bundle with its cells, as JSON has them; refused: why nothing of it can be used."""

    path: str
    submitter: str = ""
    refused: str = ""
    cells: tuple[dict[str, Any], ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def code(self) -> int:
        """The exit code for this bundle."""
        if self.refused:
            return BundleError.exit_code
        # Each cell of these levels has a reason.
        lower = any(finding.kind in (UNVERIFIED, SUBMITTED) for finding in self.findings)
        others = {name.casefold() for cell in self.cells for name in cell["disagrees_with"]}
        return int(lower or self.submitter.casefold() in others)

    @property
    def head(self) -> str:
        """The bundle and its numbers of cells by level."""
        if self.refused:
            return f"{self.path}: refused"
        counts = Counter(cell["level"] for cell in self.cells)
        told = ", ".join(f"{counts[name]:,} {name}" for name in reversed(_ORDER) if counts[name])
        return f"{self.path}: {counted(len(self.cells), 'cell')} of {self.submitter}: {told}"


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
    folders, checked = dict[Path, Path](), dict[Path, Checked]()
    for number, path in enumerate(dict.fromkeys(bundles)):
        try:
            folders[path] = unpack(path, scratch / f"bundle-{number}").path
        except BundleError as error:
            checked[path] = Checked(str(path), refused=str(error))
    gathered = gather([*folders.values(), *beside], scratch)
    for path, folder in folders.items():
        manifest = read_manifest(folder)
        assert manifest is not None
        entries = tuple(entry for entry in gathered.entries if entry.store.path == folder)
        findings = [
            *_list_reasons(entries),
            *_list_agreements(entries),
            *_list_disagreements(entries, gathered),
        ]
        if manifest.signature not in ([], [signature_of([entry.record for entry in entries])]):
            findings.insert(0, Finding(UNVERIFIED, "its signature is not that of its records"))
        cells = tuple(map(_describe, entries))
        checked[path] = Checked(str(path), manifest.submitter, "", cells, tuple(findings))
    return [checked[path] for path in dict.fromkeys(bundles)]


def _describe(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "cell": entry.record.spec.describe(),
        **asdict(entry.standing),
        "metrics": dict(entry.record.metrics),
        "agrees_with": entry.agrees_with,
        "disagrees_with": entry.disagrees_with,
        "same_run": entry.same_run,
    }


def _list_reasons(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Reasons of cells that are no more than unverified or submitted, each with its cells."""
    cells = defaultdict[tuple[str, str], list[str]](list)
    for entry in entries:
        for reason in entry.standing.reasons:
            cells[entry.standing.level, reason].append(entry.record.spec.describe())
    for (level, reason), names in sorted(cells.items(), key=lambda at: _ORDER.index(at[0][0])):
        yield Finding(level, f"{limited(names, _CELLS, '; ')}: {reason}")


def _list_agreements(entries: Sequence[Entry]) -> Iterator[Finding]:
    counts = Counter(n for e in entries if e.standing.level == RE_RUN for n in e.agrees_with)
    for name, count in sorted(counts.items()):
        yield Finding(
            RE_RUN, f"{counted(count, 'cell')} as {name} has {'them' if count > 1 else 'it'}"
        )
    for name, count in sorted(Counter(n for e in entries for n in e.same_run).items()):
        said = "are the runs" if count > 1 else "is the run"
        yield Finding("copy", f"{counted(count, 'cell')} {said} that {name} has, not repeated")


def _list_disagreements(entries: Sequence[Entry], gathered: Gathered) -> Iterator[Finding]:
    same = gathered.disagreements()
    for entry in entries:
        for other in (e for e in same.get(entry.key, ()) if e.source in entry.disagrees_with):
            pair, sources = compare_pair(entry, other), [entry.source, other.source]
            if pair.agrees:
                continue
            if entry.source.casefold() == other.source.casefold():
                sources[1] = f"another bundle of {other.source}"
            both = zip((entry, other), sources, strict=True)
            tops = [f"{e.record.metrics['top1']:.2f} % {source}" for e, source in both]
            below = [] if pair.discordant else ["their queries differ"]
            for source, ids in zip(sources, pair.discordant or (), strict=False):
                some = f" ({limited(ids, _IDS)})" if ids else ""
                below.append(f"right in {source} alone: {len(ids):,}{some}")
            below += differing_facts(entry.record, other.record, *sources)
            said = f"{entry.record.spec.describe()}: {', '.join(tops)}"
            yield Finding("disagreement", said, tuple(below))


def _write_text(checked: Sequence[Checked]) -> str:
    lines = []
    for each in checked:
        lines.append(each.head + (f": {each.refused}" if each.refused else ""))
        for finding in each.findings:
            lines += [f"{finding.kind}: {finding.text}", *(f"  {text}" for text in finding.below)]
    return "\n".join(printable(line) for line in lines)


def _write_markdown(checked: Sequence[Checked]) -> str:
    lines = []
    for each in checked:
        lines += [f"### {escape(each.head)}", ""]
        if each.refused:
            lines.append(escape(each.refused))
        for finding in each.findings:
            lines.append(f"- **{finding.kind}**: {escape(finding.text)}")
            lines += [f"  - {escape(text)}" for text in finding.below]
        lines.append("")
    return "\n".join(lines)


def _write_json(checked: Sequence[Checked]) -> str:
    return json.dumps({"bundles": list(map(asdict, checked))}, indent=1)


_FORMS = {"text": _write_text, "markdown": _write_markdown, "json": _write_json}
