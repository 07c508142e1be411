"""Reference results: the embedded suite with all built-in methods, as the project computes it.

`reference.csv` beside this file has a line per cell; `python -m scripts.make_reference` writes it,
so that a review sees each number that a change moves. Its first lines, which begin with `#`, hold
what all cells share. Stated are the digits that machines agree in: correct answers are counted,
percentages have two decimals, other metrics four; times are left out. How far another machine may
be off is `tolerance`.
"""

from __future__ import annotations

import csv
import functools
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Literal

import msgspec

from fewshot_bench.api.metrics import METRICS, PERCENT
from fewshot_bench.api.record import Record, Status
from fewshot_bench.api.spec import ALONE, TOY, RunSpec
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import counted, limited

# The word for `compare --with`, and the source of its rows.
REFERENCE = "reference"
FILE = "reference.csv"
DATASETS, SHOTS, SEEDS = ("digits", "letters", "shapes"), (4,), (1, 2, 3)
# Metrics in the file, and their decimals; `top1` follows from the correct answers.
_STATED = {
    name: 2 if about.unit == PERCENT else 4 for name, about in METRICS.items() if name != "top1"
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One cell. seed: of picks and training.

    queries, views: what the method needs. correct: answers, of so many images. trained, steps,
    encoded, gflops: parameters, steps, images encoded and billed work. depends: whether answers
    depend on other queries, if that is known. picks: digest of the split. key: of the cell, which
    has all options at their defaults. reason: why there is no number.
    """

    method: str
    version: str
    dataset: str
    shots: int
    seed: int
    queries: str
    views: int
    status: Status
    correct: int | None = None
    images: int | None = None
    macro_accuracy: float | None = None
    macro_f1: float | None = None
    nll: float | None = None
    brier: float | None = None
    ece: float | None = None
    adaptive_ece: float | None = None
    trained: int | None = None
    steps: int | None = None
    encoded: int | None = None
    gflops: float | None = None
    depends: Literal["yes", "no"] | None = None
    picks: str = ""
    key: str
    reason: str = ""

    @property
    def top1(self) -> float | None:
        """Accuracy in percent, rounded as in records."""
        return None if self.correct is None else round(100 * self.correct / (self.images or 1), 6)

    @property
    def place(self) -> tuple[str, str, int, int]:
        """Sort key of the lines."""
        return self.method, self.dataset, self.shots, self.seed


def line_of(record: Record) -> Line:
    """The line of a record of the embedded suite."""
    spec, of, metrics = record.spec, record.entry, record.metrics
    depends, flops = of("footprint", "depends_on_queries"), of("footprint", "work.billed.flops")
    images = metrics.get("n")
    return Line(
        method=spec.method,
        version=spec.method_version,
        dataset=spec.dataset,
        shots=spec.shots,
        seed=spec.split_seed,
        queries=spec.queries,
        views=spec.views,
        status=record.status,
        correct=round(metrics["top1"] * images / 100) if images else None,
        images=images,
        **{name: round(metrics[name], digits) for name, digits in _STATED.items() if metrics},
        trained=of("footprint", "trained"),
        steps=of("footprint", "steps"),
        encoded=of("footprint", "images_encoded"),
        gflops=None if flops is None else round(flops / 1e9, 3),
        depends=None if depends is None else "yes" if depends else "no",
        picks=of("split", "digest") or "",
        key=spec.key(),
        reason=" ".join(str((record.error or {}).get("message", "")).split()),
    )


def tolerance(images: int) -> int:
    """Correct answers of so many images that another machine may have more, or fewer.

    Other processors add in another order, and a fit of hundreds of steps lets the last digit grow.
    With and without vector instructions the logits of 21 methods on letters differed, and none had
    another number of correct answers; other versions of torch may differ more.
    """
    return max(3, math.ceil(images / 200))


def write_lines(lines: Iterable[Line], shared: Mapping[str, str]) -> str:
    """The text of the file. shared: `weights`, and the revision of each data set."""
    text = io.StringIO()
    text.writelines(f"# {name} {value}\n" for name, value in shared.items())
    writer = csv.DictWriter(text, Line.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    for line in sorted(lines, key=lambda line: line.place):
        writer.writerow(msgspec.structs.asdict(line))
    return text.getvalue()


@functools.cache
def read() -> tuple[Sequence[Line], Mapping[str, str]]:
    """The lines of the file, and what they share by name."""
    text = (files("fewshot_bench.analysis") / FILE).read_text(encoding="utf-8").splitlines()
    shared = dict(line[2:].split(" ", 1) for line in text if line.startswith("# "))
    rows = csv.DictReader(line for line in text if not line.startswith("# "))
    values = ({name: value for name, value in row.items() if value} for row in rows)
    return tuple(msgspec.convert(row, Line, strict=False) for row in values), shared


def records() -> Iterator[Record]:
    """The cells as records of the source `reference`, without logits."""
    lines, shared = read()
    for line in lines:
        spec = RunSpec(
            method=line.method,
            dataset=line.dataset,
            shots=line.shots,
            split_seed=line.seed,
            train_seed=line.seed,
            weights=shared["weights"],
            queries=line.queries,
            views=line.views,
            revision=shared[line.dataset],
            method_version=line.version,
        )
        metrics = {name: getattr(line, name) for name in ("top1", *_STATED)} | {"n": line.images}
        flops = None if line.gflops is None else round(line.gflops * 1e9)
        yield Record(
            RunSpec.read(spec.to_dict(), line.key),
            line.status,
            split={"digest": line.picks, "test": line.images or 0},
            metrics={name: value for name, value in metrics.items() if value is not None},
            footprint={
                "trained": line.trained,
                "steps": line.steps,
                "images_encoded": line.encoded,
                "work": {"billed": {"flops": flops}},
                "depends_on_queries": {"yes": True, "no": False}.get(line.depends or ""),
            },
            error={"type": line.status, "message": line.reason} if line.reason else None,
            source=REFERENCE,
        )


def beside(own: Sequence[Record], *, company: bool = False) -> list[Record]:
    """The records of the data sets, shots and seeds that a store has on the embedded backbone.

    company: with those of methods that need other queries or views, also if the store has none of
    these. UsageError if it has none of the cells.
    """
    toy = [record.spec for record in own if record.spec.backbone == TOY]
    needs = {(ALONE, 1), *((spec.queries, spec.views) for spec in toy)}
    seeds = {(spec.dataset, spec.split_seed, spec.train_seed) for spec in toy}
    shots = {0, *(spec.shots for spec in toy)}

    def fits(spec: RunSpec) -> bool:
        cell = spec.dataset, spec.split_seed, spec.train_seed
        needed = company or (spec.queries, spec.views) in needs
        return needed and cell in seeds and spec.shots in shots

    fitting = [record for record in records() if fits(record.spec)]
    if not fitting:
        raise UsageError(
            "--with reference: the store has none of its cells; make some with: fsbench run -m "
            f"zero-shot,linear-probe -d {','.join(DATASETS)} --backbone {TOY} --device cpu "
            f"--shots {SHOTS[0]} --seeds {','.join(map(str, SEEDS))}"
        )
    return fitting


def tell_agreement(own: Iterable[Record]) -> Iterator[str]:
    """Notes: how many cells of a store the reference has, and by how much they differ."""
    lines = {line.key: line for line in read()[0] if line.correct is not None}
    within, beyond = list[int](), defaultdict[str, list[str]](list)
    for record in own:
        line = lines.get(record.spec.key())
        if line is None or record.status != "done":
            continue
        gap = abs((line_of(record).correct or 0) - (line.correct or 0))
        if gap > tolerance(line.images or 0):
            beyond[line.method].append(f"{line.dataset} seed {line.seed}: {gap}")
        else:
            within.append(gap)
    several, same = len(within) + sum(map(len, beyond.values())), within.count(0)
    if not several:
        yield "no cell of the store is one of the reference's (same options, device cpu, fp32)"
        return
    told = f"{counted(several, 'cell')} of the store and of the reference: "
    told += f"{same} have as many correct answers"
    if others := len(within) - same:
        told += f", {others} differ by up to {max(within)} images, as machines may"
    yield told
    for method, cells in beyond.items():
        yield (
            f"{method} is not what the reference computes (images: {limited(cells, 3)}): another "
            "version of the method, of torch, or a fault"
        )
