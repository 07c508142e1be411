"""Write or check `fewshot_bench/analysis/reference.csv`, the numbers of the embedded suite.

    python -m scripts.make_reference --store DIR     computes what DIR lacks, and writes the file
    python -m scripts.make_reference --check         computes all cells anew, and compares
    ... --method proker,gda                          only these methods; other lines stay

All methods take about two hours of one core, those of `--method fast` a few minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fewshot_bench.analysis import reference
from fewshot_bench.analysis.reference import DATASETS, SEEDS, SHOTS, Line
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import TOY
from fewshot_bench.store.store import Store

FILE = Path(reference.__file__).with_name(reference.FILE)
# Together they allow what any method needs; a cell holds what its own method needs.
COMPANY = ("all", "stream")
VIEWS = 64


def compute(methods: str, store: Path) -> None:
    """Run what the store lacks, one cell after the other, on one thread."""
    plugins = registry()
    suites = {"all": plugins.methods.names(), **plugins.methods.suites()}
    by_company: dict[str, dict[str, None]] = {company: {} for company in COMPANY}
    for name in (n for part in methods.split(",") for n in suites.get(part, (part,))):
        card = card_of(plugins.method_class(name))
        # What needs no company is run with the first.
        by_company["stream" if card and card.sees == "stream" else "all"][name] = None
    suite = {"-d": DATASETS, "--shots": SHOTS, "--seeds": SEEDS}
    arguments = [part for flag, own in suite.items() for part in (flag, ",".join(map(str, own)))]
    arguments += f"--backbone {TOY} --device cpu --precision fp32 --jobs 1 --threads 1".split()
    for company, names in by_company.items():
        own = ["-m", ",".join(names), "--queries", company, "--views", str(VIEWS)]
        command = [*own, *arguments, "--store", str(store)]
        # 1: cells failed, which stand in the file with their reasons.
        if names and subprocess.call([sys.executable, "-m", "fewshot_bench", "run", *command]) > 1:
            raise SystemExit(2)


def read_store(store: Path) -> tuple[list[Line], dict[str, str]]:
    """The lines of a store's records, and what they share."""
    records = list(Store(store).records())
    shared = {"weights": records[0].spec.weights}
    shared |= dict(sorted((record.spec.dataset, record.spec.revision) for record in records))
    return [reference.line_of(record) for record in records], shared


def compare(lines: Iterable[Line]) -> Iterator[str]:
    """A text for each line that the file does not have, or has with other numbers."""
    written = {line.place: line for line in reference.read()[0]}
    for line in lines:
        old = written.get(line.place)
        where = "{} on {}, {}-shot, seed {}".format(*line.place)
        if old is None or old.key != line.key:
            yield f"{where}: another cell than in the file (options, data or weights changed)"
        elif (line.status, line.picks) != (old.status, old.picks):
            yield f"{where}: {line.status}, picks {line.picks:.12}; {old.status}, {old.picks:.12}"
        elif abs((line.correct or 0) - (old.correct or 0)) > reference.tolerance(line.images or 0):
            yield f"{where}: {line.correct} of {line.images} correct, and {old.correct} in the file"
        elif (line.trained, line.steps) != (old.trained, old.steps):
            yield f"{where}: trained {line.trained} and {old.trained}, steps {line.steps}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute, then write or compare; 1 if a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("-m", "--method", default="all", help="methods or suites")
    parser.add_argument("--store", type=Path, help="keep the records here, and use what is there")
    parser.add_argument("--no-run", action="store_true", help="use what the store has")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        store = asked.store or Path(scratch) / "store"
        if not asked.no_run:
            compute(asked.method, store)
        lines, shared = read_store(store)
    if asked.check:
        found = list(compare(lines))
        sys.stdout.writelines(f"{text}\n" for text in found)
        print(f"{len(lines)} cells, {len(found)} differ by more than machines may")
        return bool(found)
    before = reference.read()[0] if FILE.exists() else ()
    every = {line.place: line for line in (*before, *lines)}
    FILE.write_text(reference.write_lines(every.values(), shared), encoding="utf-8")
    print(f"{len(lines)} of {len(every)} cells written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
