"""Readers used by tables: signatures, and stored outcomes."""

from __future__ import annotations

import shlex
from pathlib import Path

from fewshot_bench.analysis.signature import commands, parse, signature_of
from fewshot_bench.api.record import Record
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import printable
from tests.answers import put_answers
from tests.compare_records import make
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.store_cases import resealed

LOGITS = [[2.0, 0.5, 0.1], [0.1, 1.0, 0.3], [0.2, 0.1, 0.9]]


def _records(store: Store) -> list[Record]:
    """Two records of one split, without recently added metrics."""
    store.create()
    return [
        put_answers(store, make(method, digest="d"), LOGITS, [0, 1, 1], ["a", "b", "c"])
        for method in ("coop", "zero-shot")
    ]


def _packs(folder: Path) -> list[Seed]:
    store = Store(folder)
    Outcomes(store).prepare(_records(store))
    return seeds_in(folder, ("outcomes/*", ""))


def _read_pack(folder: Path, file: Path) -> bool:
    """A damaged pack is skipped; one with a recomputed checksum may be wrong but must not crash."""
    store = Store(folder)
    records = list(store.records())
    true = [Outcomes(store).of(record).hits.tolist() for record in records]
    used = true == [[True, True, False]] * len(records)
    file.write_bytes(resealed(file.read_bytes()))
    outcomes = Outcomes(store)
    for record in outcomes.completed(records, ["ece", "macro_f1"]):
        found = outcomes.of(record)
        assert len(found.ids) == len(found.labels) == len(found.hits)
        assert found.per_class is not None
        float(record.metrics["ece"])
    return used


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
    Subject("outcomes", 3, _packs, _read_pack),
    Subject("signatures", 3, _signatures, _read_signature, (FsbenchError,)),
)
