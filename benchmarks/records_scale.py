"""CPU time and memory of commands that read a whole store, at several numbers of records.

    python -m benchmarks.records_scale [--records 6250,12500,50000] [--store DIR]

Records follow a real plan, so that `run` finds all of its cells done: five methods with options,
three embedded data sets, five numbers of shots, and as many seeds as needed. Only their numbers are
synthetic; each has the logits of eight images. `cold` runs without index and outcomes, `warm` is
the better of two later calls. Measured are CPU seconds of the whole command, including the start of
Python and other processes, the seconds that passed, and the peak resident memory of a process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.api.metrics import Answers, rounded
from fewshot_bench.api.record import Record, image_facts, seal
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.profiling.curves import Curves
from fewshot_bench.runner.request import Plan, Request, expand
from fewshot_bench.splits.draw import split_key, split_of
from fewshot_bench.store.answer_files import ASKED
from fewshot_bench.store.index import index_files
from fewshot_bench.store.store import Store

if TYPE_CHECKING:
    from fewshot_bench.api.task import Split

METHODS = ("zero-shot", "linear-probe", "tip-adapter", "coop", "clip-lora")
OPTIONS = (
    *("clip-lora.rank=2,4,8,16", "clip-lora.alpha=1,2,4", "coop.context_tokens=4,8,16"),
    *("coop.class_specific=false,true", "coop.lr=0.001,0.002,0.005"),
)
DATASETS = ("digits", "letters", "shapes")
SHOTS = (1, 2, 4, 8, 16)
# Test images per cell, and distinct logits per data set.
QUERIES, LOGITS = 8, 200
NOTHING: Mapping[str, float] = {"wall": 0.0, "cpu": 0.0}


def asked(records: int, store: Path) -> Request:
    """A request for about `records` cells."""
    each = len(expand(request(1, store)).cells)
    return request(max(1, records // each), store)


def request(seeds: int, store: Path) -> Request:
    """Request for all methods, data sets and shots with seeds 1 to `seeds`."""
    numbers = tuple(range(1, seeds + 1))
    return Request(METHODS, DATASETS, SHOTS, numbers, options=OPTIONS, store=store)


def words(request: Request) -> list[str]:
    """The request as command-line arguments."""
    options = [word for option in request.options for word in ("-o", str(option))]
    lists = {"--shots": request.shots, "--seeds": request.seeds}
    numbers = [word for name, some in lists.items() for word in (name, ",".join(map(str, some)))]
    return ["-m", ",".join(METHODS), "-d", ",".join(DATASETS), *options, *numbers]


def fill(request: Request) -> int:
    """Write the records of all cells and return their number."""
    plan, store = expand(request), Store(request.store)
    store.create()
    splits = _splits(plan)
    drawn: dict[tuple[str, int], tuple[bytes, Record]] = {}
    for cell in plan.cells:
        split, facts = splits[split_key(cell)]
        names = plan.datasets[cell.dataset].card().classnames
        path = store.file(cell.key())
        chosen = cell.dataset, int(cell.key()[:8], 16) % LOGITS
        record = _record(cell, split, facts, list(names))
        if chosen not in drawn:
            answers, ids = _answers(split, len(names), chosen[1])
            record = dataclasses.replace(record, metrics=rounded(answers))
            made = store.write(record, answers, ids)
            drawn[chosen] = path.with_suffix(".npz").read_bytes(), made
            continue
        content, made = drawn[chosen]
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".npz").write_bytes(content)
        environment = {**record.environment, ASKED: made.environment[ASKED]}
        record = dataclasses.replace(record, metrics=made.metrics, environment=environment)
        path.write_bytes(seal(record, made.digests).to_json().encode())
    return len(plan.cells)


def _answers(split: Split, classes: int, number: int) -> tuple[Answers, list[str]]:
    """Random answers to a few test images, and the images' ids."""
    test = split.test[:QUERIES]
    labels = np.array([item.label for item in test])
    logits = np.random.default_rng(number).normal(size=(len(test), classes)).astype(np.float32)
    logits[np.arange(len(test)), labels] += 1
    return Answers.of(logits, labels), [item.id for item in test]


def _splits(plan: Plan) -> dict[Any, tuple[Split, Mapping[str, Any]]]:
    """Split and image facts of all cells, by `split_key`."""
    digests: dict[str, dict[str, bytes]] = {}
    for name, dataset in plan.datasets.items():
        items = [item for pool in dataset.items().values() for item in pool]
        found = ImageFiles(dataset, items).digests
        digests[name] = {item.id: digest for item, digest in zip(items, found, strict=True)}
    splits: dict[Any, tuple[Split, Mapping[str, Any]]] = {}
    for key, cell in {split_key(cell): cell for cell in plan.cells}.items():
        split, known = split_of(cell, plan.datasets), digests[cell.dataset]
        parts = ([known[item.id] for item in part] for part in (split.train, split.val, split.test))
        splits[key] = split, image_facts(*parts)
    return splits


def _record(cell: RunSpec, split: Split, facts: Mapping[str, Any], names: list[str]) -> Record:
    """A record as a run writes it, with synthetic costs."""
    draw = random.Random(cell.key())
    seconds = round((1 + cell.shots) * draw.uniform(0.9, 1.1), 6)
    spent = {name: {"wall": seconds, "cpu": round(seconds * 0.9, 6)} for name in BOTH}
    images = draw.randrange(1000, 9000)
    work = {"images": images, "text_tokens": 3 * images, "flops": images * 23_000_017}
    steps = 0 if cell.method in ("zero-shot", "tip-adapter") else 50 * cell.shots
    return Record(
        cell,
        "done",
        split={
            "digest": split.digest,
            "protocol": cell.protocol,
            "revision": cell.revision,
            "classes": len(names),
            "train": len(split.train),
            "val": len(split.val),
            "test": QUERIES,
            "verified": None,
            "mirrored": False,
            "templates": ["a photo of a {}."],
            "classnames": names,
            **facts,
            "short_classes": 0,
            "smallest_class": cell.shots,
            "short_val": 0,
        },
        footprint={
            "trained": 512 * steps,
            "trained_source": "observed",
            "steps": steps,
            "stored": 512 * steps,
            "backbone": 3_795_265,
            "images_seen": images,
            "images_encoded": images,
            "work": {"billed": work, "computed": work},
            "selection": {"configurations": 0, "labels": 0},
            "peak_memory_mb": round(draw.uniform(400, 700), 1),
        },
        timings={
            "phases": {
                **{
                    name: dict.fromkeys(BOTH, NOTHING) for name in ("encode_support", "encode_text")
                },
                "fit": spent,
                "encode_queries": dict.fromkeys(BOTH, NOTHING),
                "predict": spent,
            },
            "billed_seconds": seconds,
            "elapsed_seconds": seconds,
            "images": {"elapsed": 2.1, "decoded": images, "cached": 0},
        },
        environment={**ENVIRONMENT, "load": round(draw.uniform(0, 9), 2), "code": _code(cell)},
        curves=_curves(steps, draw),
    )


def _curves(steps: int, draw: random.Random) -> dict[str, Any]:
    """Loss and rate of a method that trains, as many points as a run keeps."""
    curves = Curves()
    for number in range(steps):
        curves.log(number + 1, {"loss": draw.uniform(0, 5), "rate": 0.002 * draw.random()})
    return curves.finish()


BOTH = ("billed", "elapsed")
ENVIRONMENT: Mapping[str, Any] = {
    "fewshot_bench": "0.1.0",
    "commit": "8207a267c32c32700fed3c6500435eeb7efa4849",
    "dirty": False,
    "python": "3.11.7",
    "packages": {
        "torch": "2.13.0+cpu",
        "torchvision": "0.28.0+cpu",
        "open_clip_torch": "3.3.0",
        "scikit-learn": "1.9.1",
        "scipy": "1.17.1",
        "numpy": "2.4.6",
        "pillow": "13.0.0",
        "safetensors": "0.8.0",
    },
    "platform": "Linux-6.18.44-x86_64-with-glibc2.41",
    "device": "cpu",
    "device_name": "AMD EPYC",
    "threads": 1,
    "determinism": "free",
    "cpus": 2,
    "weights_digest": "0b58" * 16,
    "activation": "GELU",
    "method_origin": "fewshot-bench:builtin_methods",
    "kit": None,
    "labels": "separate",
}


def _code(cell: RunSpec) -> Mapping[str, Any]:
    return registry().code(cell.method)


def commands(store: Path, request: Request) -> dict[str, list[str]]:
    """The measured commands, by name."""
    run = [*words(request), "--store", str(store)]
    page = str(store.parent / "page.html")
    return {
        "compare": ["compare", "--store", str(store)],
        "compare --baseline": ["compare", "--baseline", "zero-shot", "--store", str(store)],
        "audit": ["audit", "--store", str(store)],
        "signature": ["signature", "--store", str(store)],
        "report": ["report", "--store", str(store), "-O", page],
        "run, nothing to do": ["run", *run],
        "run --dry-run": ["run", "--dry-run", *run],
    }


def measured(arguments: Sequence[str]) -> tuple[float, float, float]:
    """CPU seconds, elapsed seconds and peak MB of one command, child processes included."""
    code = (
        "import resource, subprocess, sys, json, time\n"
        "start = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, done.stderr.decode()[-2000:],"
        " used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss / 1024]))\n"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "fewshot_bench", *arguments]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    failed, said, *figures = json.loads(made.stdout)
    if failed:
        raise SystemExit(f"{' '.join(arguments[:2])} failed: {said}")
    seconds, elapsed, megabytes = figures
    return seconds, elapsed, megabytes


def main() -> None:
    """Fill each store, then measure every command without and with index and outcomes."""
    options = arguments()
    heads = f"{'cold s':>8}{'elapsed':>9}{'MB':>7}{'warm s':>8}{'elapsed':>9}{'MB':>7}"
    print(f"{'command':<20}{'records':>9}{heads}", flush=True)
    for count in options.records:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            store = options.store or Path(scratch) / "store"
            made = asked(count, store)
            if not store.exists():
                fill(made)
            for name, command in commands(store, made).items():
                if options.only and not name.startswith(options.only):
                    continue
                forget(store)
                cold = measured(command)
                warm = min(measured(command) for _ in range(options.repeats))
                records = len(expand(made).cells)
                print(
                    f"{name:<20}{records:>9,}{cold[0]:>8.1f}{cold[1]:>9.1f}{cold[2]:>7.0f}"
                    f"{warm[0]:>8.1f}{warm[1]:>9.1f}{warm[2]:>7.0f}",
                    flush=True,
                )


def forget(store: Path) -> None:
    """Remove the index with the outcomes, which can be rebuilt."""
    for path in index_files(store):
        path.unlink()


def arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=_numbers, default=[6250, 12500, 50000])
    parser.add_argument("--store", type=Path, help="kept, and used again when it is there")
    parser.add_argument("--scratch", type=Path, help="where stores are made")
    parser.add_argument("--only", default="", help="the command that is measured")
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
