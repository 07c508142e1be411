"""Hours that cells will take: as records of the same store took, else by unit costs.

`list_times` is the entry point. `work_of` counts images, views and steps from the plan; FLOPs
follow from the shape of the backbone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.backbones.shape import shape_of
from fewshot_bench.engines.reporting import expect_seconds
from fewshot_bench.runner.preflight import FITTED_IMAGES, TEST_IMAGES, Counts, count, distinct_rows
from fewshot_bench.utils.progress import duration
from fewshot_bench.utils.text import FEW, counted, limited

# Frozen weights have no gradients, so that the backward pass costs as much as the forward pass.
BACKWARD = 1.0
# Tokens that prompts of a class share, and of one packed class prompt.
SHARED_TOKENS, TOKENS = 17, 4.2
# Cores beside a card, beyond which more are not asked for.
MOST_CORES = 8
# Trainings per fit of a head whose settings are searched on validation images.
SEARCHED = 12
_CORE = "one core of an AMD EPYC with AVX2, where they were measured"
_CARD = "a card of 60 TFLOP/s, which is assumed: none was measured"


@dataclass(frozen=True)
class Units:
    """Unit costs: FLOP/s of a core and of a card; seconds per decoded image, crop, probe and cell.

    Rounded up from one core of an AMD EPYC with AVX2; no card was measured
    (docs/how-to/plan-a-run.md). probe: of a head, per support image and class. cell: whatever a
    cell costs besides.
    """

    flops: float = 60e9
    card: float = 60e12
    decode: float = 5e-3
    crop: float = 1.5e-3
    probe: float = 1.4e-5
    cell: float = 0.5


@dataclass(frozen=True)
class Machine:
    """Number of cards, and cores per card; without cards, of the machine."""

    cards: int
    cores: int


@dataclass(frozen=True)
class Work:
    """FLOPs of encoders and training, and core seconds for decoding, crops and solvers."""

    flops: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.cpu + other.cpu)

    def seconds(self, machine: Machine, units: Units) -> float:
        """Seconds: device and cores work in parallel; without a card, one after the other."""
        if not machine.cards:
            return (self.flops / units.flops + self.cpu) / machine.cores
        return max(self.flops / units.card, self.cpu / machine.cores) / machine.cards


def work_of(cell: RunSpec, counts: Counts, units: Units) -> Work | None:
    """Upper bound of the work of one cell, as if no other cell had encoded its views.

    None if the method's card does not state what a fit costs, or the backbone is not known.
    """
    method = registry().method_class(cell.method)(**open_files(cell.options))
    shape, card = shape_of(cell.backbone), card_of(method)
    if card is None or not card.cost or not shape.image_flops:
        return None
    support, classes, options = counts.support, counts.classes, cell.options
    views = support * (counts.fit.views or 0) + counts.queries * (cell.views - 1)
    work = Work(views * shape.image_flops, views * units.crop + support * units.decode)
    prompts = (SHARED_TOKENS + TOKENS * classes) * shape.token_flops
    batch = min(int(options.get("batch_size") or 256), support)
    try:
        steps = _steps(cell, method, support, max(batch, 1))
    except Exception:
        # Functions of a plug-in may have these names and another meaning.
        return None
    learned = steps * (1 + BACKWARD) * prompts
    if card.cost == "hours":
        return work + Work(batch * learned + counts.queries * prompts)
    if card.cost == "closed form":
        return work
    if card.family == "linear head" and (card.cost == "minutes" or not steps):
        searched = SEARCHED if card.cost == "minutes" else 1
        return work + Work(0.0, searched * units.probe * support * classes)
    if card.cost == "seconds":
        return work + Work(6.0 * steps * batch * classes * shape.width)
    if card.family == "text prompts":
        return work + Work(learned)
    images = steps * (1 + BACKWARD) * batch + counts.queries
    return work + Work(learned + images * shape.image_flops, steps * batch * units.crop)


def _steps(cell: RunSpec, method: Any, support: int, batch: int) -> float:
    """Training steps: as the method says, or by its options `iterations` (per shot) or `epochs`."""
    per_epoch, shots = -(-support // batch), int(min(cell.shots, support))
    if callable(getattr(method, "steps", None)):
        return float(method.steps(shots, per_epoch))
    if "iterations" in cell.options:
        return float(cell.options["iterations"]) * shots
    epochs = method.epochs_for(shots) if hasattr(method, "epochs_for") else None
    return float(epochs or cell.options.get("epochs") or 0) * per_epoch


def encoding(counts: Sequence[Counts], units: Units) -> Work:
    """Work of encoding the images of all cells, each once."""
    work = Work()
    for (kind, backbone, *_), number in distinct_rows(counts).items():
        if kind in (TEST_IMAGES, FITTED_IMAGES):
            work += Work(shape_of(backbone).image_flops * number, units.decode * number)
    return work


def count_cores(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> int:
    """The CPU cores beside one card that it does not wait for, by unit costs."""
    units, counts = Units(), count(cells, datasets)
    works = (work_of(cell, of, units) for cell, of in zip(cells, counts, strict=True))
    work = sum(filter(None, works), encoding(counts, units))
    cores = work.cpu * units.card / work.flops if work.flops else MOST_CORES
    return min(math.ceil(cores) or 1, MOST_CORES)


def list_times(
    cells: Sequence[RunSpec],
    datasets: Mapping[str, Dataset],
    records: Iterable[Record],
    machine: Machine,
    workers: int,
) -> Iterator[str]:
    """The lines of `--dry-run` on time, with how it was estimated.

    records: of the store; those of the same method, data set and conditions are measurements.
    """
    runs: defaultdict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
    names: dict[tuple[str, ...], str] = {}
    for record in records:
        seconds = record.timings.get("elapsed_seconds")
        if record.status == "done" and seconds is not None:
            setting = _setting(record.spec)
            runs[setting].append((int(record.spec.shots), float(seconds)))
            names[setting] = str(record.environment.get("device_name") or "unknown hardware")
    parts, total = [], 0.0
    measured = [cell for cell in cells if _setting(cell) in runs]
    if measured:
        settings = set(map(_setting, measured))
        total = sum(expect_seconds(cell, runs[_setting(cell)]) for cell in measured) / workers
        took = counted(sum(len(runs[setting]) for setting in settings), "record")
        where = limited(sorted({names[setting] for setting in settings}), FEW)
        parts.append(f"{counted(len(measured), 'cell')} as {took} of this store took ({where})")
    others = [cell for cell in cells if _setting(cell) not in runs]
    units, counts = Units(), count(others, datasets)
    works = [work_of(cell, of, units) for cell, of in zip(others, counts, strict=True)]
    estimates = [work for work in works if work is not None]
    if estimates:
        total += sum(estimates, encoding(counts, units)).seconds(machine, units)
        total += len(estimates) * units.cell / workers
        where = _CARD if machine.cards else _CORE
        parts.append(f"{counted(len(estimates), 'cell')} by unit costs, roughly (of {where})")
    if parts:
        yield f"time: about {duration(total)} in {counted(workers, 'worker')}: {'; '.join(parts)}"
    if len(estimates) < len(others):
        silent = {c.method: None for c, w in zip(others, works, strict=True) if w is None}
        yield (
            f"time: {counted(len(others) - len(estimates), 'cell')} of "
            f"{limited(list(silent), FEW)} not estimated: the card states no cost or "
            "steps, or the backbone is not known"
        )


def _setting(spec: RunSpec) -> tuple[str, ...]:
    """The values that a cell shares with its measurements: they differ in shots and seeds alone."""
    on = spec.backbone, spec.precision, spec.device
    return spec.label, spec.dataset, spec.target, spec.classes, str(spec.limit), *on
