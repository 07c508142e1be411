"""From a signature to the commands that compute its cells, and what these cannot say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby

from fewshot_bench.names import join_names
from fewshot_bench.signature.fields import numbers
from fewshot_bench.signature.model import Choice, Matrix, Named, Pair, Signature
from fewshot_bench.spec import IMPORTED


def commands(signature: Signature, store: str = "") -> list[str]:
    """`fsbench run` lines that together compute every cell of the signature, and no other.

    `problems` names the exceptions.
    """
    lines = [line for matrix in signature.matrices for line in _matrix(matrix, store)]
    return list(dict.fromkeys(lines))


def problems(signature: Signature) -> list[str]:
    """What a line and its commands cannot say, one sentence each."""
    found = [text for matrix in signature.matrices for text in _problems(matrix)]
    return list(dict.fromkeys(found))


def _matrix(matrix: Matrix, store: str) -> Iterator[str]:
    for choices in _each_method_once(matrix.methods):
        for seeds in _seed_options(matrix.seeds):
            for asked in _asked(matrix):
                for datasets in _own_names(matrix):
                    words = ["fsbench", "run", *(["--store", store] if store else [])]
                    words += _method_words(choices)
                    words += ["--dataset", _names(datasets), *asked, *_own_data(matrix)]
                    words += ["--shots", numbers(matrix.shots), *seeds, *_conditions(matrix)]
                    yield shlex.join(words)


def _each_method_once(choices: Sequence[Choice]) -> list[list[Choice]]:
    """One command takes one product of options for a method."""
    rounds: list[list[Choice]] = []
    for choice in choices:
        free = [r for r in rounds if choice.method not in {other.method for other in r}]
        if free:
            free[0].append(choice)
        else:
            rounds.append([choice])
    return rounds


def _method_words(choices: Sequence[Choice]) -> list[str]:
    words = ["--method", ",".join(choice.method for choice in choices)]
    for choice in choices:
        for name, values in choice.options:
            words += ["-o", f"{choice.method}.{name}={','.join(values)}"]
    return words


def _seed_options(pairs: Sequence[Pair]) -> Iterator[list[str]]:
    by_split = groupby(sorted(pairs), key=lambda pair: pair.split)
    trains = {split: [pair.train for pair in group] for split, group in by_split}
    equal = [split for split, seeds in trains.items() if seeds == [split]]
    if equal:
        yield ["--seeds", numbers(equal)]
    for split, seeds in trains.items():
        if seeds != [split]:
            yield ["--seeds", numbers(seeds), "--split-seed", str(split)]


def _asked(matrix: Matrix) -> Iterator[list[str]]:
    """Transfers come with the data set itself; parts of the classes are a run of their own."""
    parts = list(matrix.classes)
    if matrix.targets:
        yield ["--transfer", _names(matrix.targets)]
        parts = [part for part in parts if part != "all"]
    if parts:
        yield [] if parts == ["all"] else ["--classes", ",".join(parts)]


def _own_names(matrix: Matrix) -> list[Sequence[Named]]:
    """A run takes class names for one data set only."""
    return [[one] for one in matrix.datasets] if matrix.classnames else [matrix.datasets]


def _own_data(matrix: Matrix) -> list[str]:
    words = ["--classnames", "FILE"] if matrix.classnames else []
    for template in matrix.templates:
        words += ["--templates", template]
    return words + (["--holdout", matrix.holdout] if matrix.holdout else [])


def _conditions(matrix: Matrix) -> list[str]:
    words = ["--backbone", matrix.backbone.name, "--protocol", matrix.protocol]
    words += ["--val", matrix.val]
    # Own templates replace the custom ones, and are refused beside the option.
    words += (
        [] if matrix.templates and matrix.prompts == "custom" else ["--prompts", matrix.prompts]
    )
    words += ["--precision", matrix.precision]
    words += ["--device", matrix.device] if matrix.device else []
    return words + ([] if matrix.limit is None else ["--limit", str(matrix.limit)])


def _names(values: Sequence[Named]) -> str:
    return join_names(value.name for value in values)


def _problems(matrix: Matrix) -> Iterator[str]:
    if matrix.has:
        some, total = matrix.has
        yield f"the commands compute {total:,} cells, of which the table has {some:,}"
    if matrix.classnames:
        yield (
            f"own class names (digest {matrix.classnames}) do not stand in the line: put their "
            "file in the place of FILE"
        )
    if matrix.protocol == IMPORTED:
        yield "the picks were imported: put them into the store first (fsbench splits import)"
    if matrix.targets and "all" not in matrix.classes:
        yield (
            "the commands also evaluate each fit on its own data set, which this part of "
            "the line does not"
        )
    yield from _unsaid(matrix)
    versions: dict[str, set[str]] = {}
    for choice in matrix.methods:
        versions.setdefault(choice.method, set()).add(choice.version)
    for method, known in versions.items():
        if len(known) > 1:
            yield f"{method} of versions {', '.join(sorted(known))}: a command runs the one here"


def _unsaid(matrix: Matrix) -> Iterator[str]:
    """Names and values that a command would split, strip, or show as something else."""
    for choice in matrix.methods:
        for name, values in choice.options:
            for value in values:
                if "," in value or value != value.strip() or not value.isprintable():
                    yield f"{choice.method}: no command can say {name}={value!r}"
    for name in dict.fromkeys(choice.method for choice in matrix.methods):
        if "," in name or name != name.strip() or "=" in name or not name.isprintable():
            yield f"no command can say the name {name!r}"
    for name in dict.fromkeys(one.name for one in (*matrix.datasets, *matrix.targets)):
        if not name.isprintable():
            yield f"no command can say the name {name!r}"
    for text in (matrix.backbone.name, matrix.device, *matrix.templates):
        if not text.isprintable():
            yield f"no command can show {text!r}"
