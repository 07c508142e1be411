"""Readers of signatures."""

from __future__ import annotations

import shlex
from pathlib import Path

from fewshot_bench.analysis.signature import commands, parse, signature_of
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import printable
from tests.compare_records import make
from tests.fuzzing.subject import Seed, Subject, seeds_in


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


SUBJECTS = (Subject("signatures", 3, _signatures, _read_signature, (FsbenchError,)),)
