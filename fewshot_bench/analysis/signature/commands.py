"""From cells to the commands that compute them.

All `fsbench run` commands that are printed anywhere are written here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from fewshot_bench.analysis.signature.line import (
    Choice,
    Matrix,
    Named,
    Pair,
    numbers,
    shots_text,
    split_pairs,
)
from fewshot_bench.analysis.signature.of_records import matrices_of
from fewshot_bench.api.own_methods import digest_in
from fewshot_bench.api.spec import IMPORTED, KEPT_MODEL, NO_CLASSES, RunSpec, words_of_conditions
from fewshot_bench.utils.text import join_names


def _commands(matrices: Iterable[Matrix], store: str) -> list[str]:
    """`fsbench run` lines that together compute exactly the cells of these matrices."""
    return list(dict.fromkeys(line for matrix in matrices for line in _lines(matrix, store)))


def commands_of(specs: Iterable[RunSpec], store: str = "") -> tuple[list[str], list[str]]:
    """`fsbench run` lines that compute exactly these cells, each once, and remarks on them.

    Cells that no command can express are left out, and named in the remarks.
    """
    refused: dict[str, None] = {}
    usable = []
    for spec in specs:
        reasons = [text for matrix in matrices_of([spec]) for text in _inexpressible(matrix)]
        reasons += [f"no command can ask for {spec.shots} shots"] if spec.shots < 1 else []
        refused |= dict.fromkeys(reasons)
        usable += [] if reasons else [spec]
    matrices = matrices_of(usable)
    texts = [text for matrix in matrices for text in _remarks(matrix)]
    return _commands(matrices, store), [*refused, *dict.fromkeys(texts)]


def _lines(matrix: Matrix, store: str) -> Iterator[str]:
    # A run accepts own class names for only one data set.
    sets = [[d] for d in matrix.datasets] if matrix.classnames else [matrix.datasets]
    for choices in _each_method_once(matrix.methods):
        for seeds in _seed_options(matrix.seeds):
            for asked in _options_of_evaluations(matrix):
                for datasets in sets:
                    words = ["fsbench", "run", *(["--store", store] if store else [])]
                    words += _method_words(choices)
                    words += ["--dataset", _names(datasets), *asked]
                    words += ["--shots", shots_text(matrix.shots), *seeds]
                    yield shlex.join([*words, *_shared_words(matrix)])


def _each_method_once(choices: Sequence[Choice]) -> list[list[Choice]]:
    """Group choices so that each method occurs once: a command takes one option product for it."""
    rounds: list[list[Choice]] = []
    for choice in choices:
        free = [r for r in rounds if choice.method not in {other.method for other in r}]
        if free:
            free[0].append(choice)
        else:
            rounds.append([choice])
    return rounds


def _method_words(choices: Sequence[Choice]) -> list[str]:
    words = ["--method", join_names(map(_method_word, choices))]
    for choice in choices:
        for name, values in choice.options:
            texts = ",".join(value.replace(",", "\\,") for value in values)
            words += ["-o", f"{choice.method}.{name}={texts}"]
    return words


def _method_word(choice: Choice) -> str:
    """A method's name; of one of a file, with the version, whose code a store has."""
    is_own = digest_in(choice.version)
    return f"{choice.method}@{choice.version}" if is_own else choice.method


def _seed_options(pairs: Sequence[Pair]) -> Iterator[list[str]]:
    equal, crossed = split_pairs(pairs)
    if equal:
        yield ["--seeds", numbers(equal)]
    for split, seeds in crossed.items():
        yield ["--seeds", numbers(seeds), "--split-seed", str(split)]


def _options_of_evaluations(matrix: Matrix) -> Iterator[list[str]]:
    """Options for targets and classes, per command: base and new classes need fits of their own."""
    parts = list(matrix.classes)
    if matrix.targets:
        alone = [] if "all" in parts else ["--classes", NO_CLASSES]
        yield ["--transfer", _names(matrix.targets), *alone]
        parts = [part for part in parts if part != "all"]
    if parts:
        yield [] if parts == ["all"] else ["--classes", ",".join(parts)]


def _shared_words(matrix: Matrix) -> list[str]:
    """Options for what is equal in all cells; the file of own class names is a placeholder."""
    words = ["--backbone", matrix.backbone.name, *words_of_conditions(matrix.conditions)]
    words += ["--holdout", matrix.holdout] if matrix.holdout else []
    words += [word for text in matrix.templates for word in ("--templates", text)]
    words += ["--classnames", "FILE"] if matrix.classnames else []
    return words + (["--skip-damaged"] if matrix.skipped else [])


def _names(values: Sequence[Named]) -> str:
    """Names joined, each once even if it occurs with several revisions."""
    return join_names(dict.fromkeys(value.name for value in values))


def _remarks(matrix: Matrix) -> Iterator[str]:
    """Preconditions of the commands, and placeholders to fill in."""
    if matrix.classnames:
        yield (
            f"own class names (digest {matrix.classnames}) are too long for a command: put their "
            "file in the place of FILE"
        )
    if matrix.conditions["protocol"] == IMPORTED:
        yield "the picks were imported: put them into the store first (fsbench splits import)"


def _inexpressible(matrix: Matrix) -> Iterator[str]:
    """Problems with names and values that a command would split, strip, or display altered."""
    for method, _, options in matrix.methods:
        for name in (name for name, _ in options if not name.isidentifier()):
            yield f"{method}: no command can express the option {name!r}"
        for name, value in ((name, value) for name, values in options for value in values):
            if value.endswith("\\") or value != value.strip() or not value.isprintable():
                yield f"{method}: no command can express {name}={value!r}"
    if matrix.conditions["protocol"] == KEPT_MODEL:
        yield "kept models are measured by fsbench evaluate MODEL --store DIR, not by a run"
    methods = [choice.method for choice in matrix.methods]
    sets = [named.name for named in (*matrix.datasets, *matrix.targets)]
    for name in dict.fromkeys([*methods, *sets]):
        if not name.isprintable() or (name in methods and (name != name.strip() or "=" in name)):
            yield f"no command can express the name {name!r}"
    prompts = matrix.conditions["prompts"]
    if matrix.templates and prompts != "custom":
        yield f"no command can ask for own prompt templates and --prompts {prompts} at once"
    for text in (matrix.backbone.name, matrix.conditions["device"], *matrix.templates):
        if not text.isprintable():
            yield f"no command can show {text!r}"
