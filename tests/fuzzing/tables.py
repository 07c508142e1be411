"""Readers used by tables: signatures, and stored outcomes."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from fewshot_bench.analysis.signature import commands, parse, signature_of
from fewshot_bench.api.record import Record
from fewshot_bench.store.index_file import index_file, index_files
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import printable
from tests.answers import put_answers
from tests.compare_records import make
from tests.fuzzing.subject import Seed, Subject, seeds_in

LOGITS = [[2.0, 0.5, 0.1], [0.1, 1.0, 0.3], [0.2, 0.1, 0.9]]


def _records(store: Store) -> list[Record]:
    """Two records of one split, without recently added metrics."""
    store.create()
    return [
        put_answers(store, make(method, digest="d"), LOGITS, [0, 1, 1], ["a", "b", "c"])
        for method in ("coop", "zero-shot")
    ]


def _indexed(folder: Path) -> list[Seed]:
    store = Store(folder)
    Outcomes(store).prepare(_records(store))
    shutil.copy(index_file(folder), folder / "index.sqlite")
    return seeds_in(folder, ("index.sqlite", ""))


def _read_index(folder: Path, file: Path) -> bool:
    """A damaged index is made anew, and no damage shows in what is read."""
    store = Store(folder)
    for path in index_files(folder):
        path.unlink()
    index_file(folder).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, index_file(folder))
    records = list(store.records())
    outcomes = Outcomes(store)
    assert [outcomes.of(r).hits.tolist() for r in records] == [[True, True, False]] * len(records)
    for record in outcomes.completed(records, ["ece", "macro_f1"]):
        found = outcomes.of(record)
        assert len(found.ids) == len(found.labels) == len(found.hits)
        assert found.per_class is not None
        float(record.metrics["ece"])
    return True


def _signatures(folder: Path) -> list[Seed]:
    lines = [
        signature_of([make("coop"), make("coop", seed=2), make("zero-shot", dataset="a|b,c#d")]),
        signature_of([make("x", options={"rank": 2}, overrides={"rank": 2}, shots=4)]),
    ]
    for number, line in enumerate(lines):
        (folder / f"{number}.txt").write_text(line, encoding="utf-8")
    return seeds_in(folder, ("*.txt", ""))


def _read_signature(folder: Path, file: Path) -> bool:
    signature = parse(file.read_bytes().decode("utf-8", "surrogateescape"))
    for command in commands(signature):
        assert shlex.split(command)[:2] == ["fsbench", "run"]
        assert printable(command).isprintable()
    return True


SUBJECTS = (
    Subject("indexes", 3, _indexed, _read_index),
    Subject("signatures", 3, _signatures, _read_signature, (FsbenchError,)),
)
