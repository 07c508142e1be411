"""One cell from specification to record: the only place that times, and that knows test labels."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_bench import environment
from fewshot_bench.backbones import loading
from fewshot_bench.backbones.protocol import LoadedBackbone
from fewshot_bench.containment import contained
from fewshot_bench.context import Context
from fewshot_bench.dataset import Dataset
from fewshot_bench.errors import ContractError, FsbenchError
from fewshot_bench.evaluate import check_logits, metrics
from fewshot_bench.feature_store import FeatureStore
from fewshot_bench.features import image_view, open_views, shots_view
from fewshot_bench.images import ImageSource
from fewshot_bench.meter import Meter, ParameterObserver, PeakMemory
from fewshot_bench.method import Classifier, Method
from fewshot_bench.published.picks import verified_picks
from fewshot_bench.record import Record
from fewshot_bench.registry import registry
from fewshot_bench.rng import derive, isolated
from fewshot_bench.spec import RunSpec
from fewshot_bench.splits import draw_cell
from fewshot_bench.task import Item, Split, Task

Progress = Callable[[int, int], None]
SOURCES_KEPT = 6


class Outcome:
    """What one cell gave: its record and, when it is done, what is kept beside it."""

    def __init__(self, record: Record, logits: Tensor | None = None, split: Split | None = None):
        self.record = record
        self.logits = logits
        self.labels = [item.label for item in split.test] if split else None
        self.ids = [item.id for item in split.test] if split else None


class Session:
    """What cells share in one process: backbones, data sets, decoded images and features."""

    def __init__(self, cache: Path | None = None, device: str = "cpu") -> None:
        self.features = FeatureStore(cache)
        self.device = device
        self._backbones: dict[tuple[str, str], tuple[LoadedBackbone, str]] = {}
        self._sources: dict[Any, ImageSource] = {}

    def backbone(self, spec: RunSpec) -> tuple[LoadedBackbone, str]:
        """The backbone of a cell and its fingerprint when it was loaded."""
        key = (spec.backbone, spec.precision)
        if key not in self._backbones:
            self._sources.clear()
            self._backbones.clear()
            loaded = loading.load(spec.backbone, self.device, spec.precision)
            self._backbones[key] = (loaded, loaded.fingerprint())
        return self._backbones[key]

    def drop_changed_backbone(self) -> None:
        """Forget a backbone that a method has left changed; the next cell loads it anew."""
        if any(loaded.fingerprint() != found for loaded, found in self._backbones.values()):
            self._backbones.clear()
            self._sources.clear()

    @functools.lru_cache(maxsize=32)  # noqa: B019 (a session lives as long as its process)
    def dataset(self, name: str) -> Dataset:
        """The data set `name`, opened once."""
        dataset: Dataset = registry().dataset(name)
        return dataset

    def source(self, dataset: Dataset, items: tuple[Item, ...], spec: RunSpec) -> ImageSource:
        """Decoded images of `items`, shared by the cells that use the same ones."""
        backbone, _ = self.backbone(spec)
        key = (spec.dataset, items)
        if key not in self._sources:
            while len(self._sources) >= SOURCES_KEPT:
                self._sources.pop(next(iter(self._sources)))
            self._sources[key] = ImageSource(dataset, items, backbone)
        return self._sources[key]


def run_one(spec: RunSpec, session: Session, progress: Progress | None = None) -> Outcome:
    """Compute one cell. A failure of the method or its data becomes a failed record."""
    try:
        return _Cell(spec, session, progress).run()
    except (Exception, SystemExit) as error:
        session.drop_changed_backbone()
        return Outcome(
            Record(
                spec=spec,
                status="failed",
                environment=environment.describe(spec.device),
                error={
                    "type": type(error).__name__,
                    "message": str(error) or repr(error),
                    "traceback": "".join(traceback.format_exception(error)),
                    "expected": isinstance(error, FsbenchError),
                },
            )
        )


class _Cell:
    """One cell while it runs."""

    def __init__(self, spec: RunSpec, session: Session, progress: Progress | None) -> None:
        self.spec = spec
        self.session = session
        self.backbone, self.fingerprint = session.backbone(spec)
        self.dataset = session.dataset(spec.dataset)
        self.card = self.dataset.card()
        self.split = draw_cell(spec, self.dataset.items())
        device = self.backbone.device
        self.meter = Meter(device)
        self.observer = ParameterObserver()
        self.memory = PeakMemory(device)
        seed = derive(spec.train_seed, spec.dataset, spec.shots)
        self.seed = seed
        self.context = Context(seed, device, spec.precision, progress)

    def run(self) -> Outcome:
        method: Method = registry().method_class(self.spec.method)(**self.spec.options)
        with self.memory.watching(), isolated(self.seed), contained() as printed, open_views():
            classifier = self._fit(method)
            logits = self._predict(classifier)
            footprint = self._footprint(classifier)
        test = torch.tensor([item.label for item in self.split.test])
        record = Record(
            spec=self.spec,
            status="done",
            split=self._split_facts(),
            metrics=metrics(logits, test),
            footprint=footprint | {"peak_memory_mb": round(self.memory.megabytes, 1)},
            timings=self.meter.timings(),
            environment=self._environment(),
            notes=self.context.notes | ({"printed": printed.text} if printed.text else {}),
        )
        return Outcome(record, logits, self.split)

    def _fit(self, method: Method) -> Classifier:
        task = self._task()
        with self.observer.watching(), self.meter.phase("fit"):
            classifier = method.fit(task, self.backbone, self.context)
        self.observer.declared = self.context.declared
        for part in ("logits", "tensors"):
            if not callable(getattr(classifier, part, None)):
                raise ContractError(
                    f"{self.spec.method}.fit returned {type(classifier).__name__} without "
                    f"{part}(); return a Classifier"
                )
        self._check_backbone("fit")
        return classifier

    def _predict(self, classifier: Classifier) -> Tensor:
        """Logits in the order of the test list; the method sees queries in a shuffled order."""
        source = self.session.source(self.dataset, self.split.test, self.spec)
        # A list grouped by class would give the label away by position.
        stream = torch.Generator().manual_seed(derive(0, "queries", self.split.digest))
        order = torch.randperm(len(source), generator=stream)
        queries = image_view(
            source,
            self.session.features,
            self.meter,
            phase="encode_queries",
            order=order.tolist(),
        )
        with self.meter.phase("predict"), torch.no_grad():
            raw = classifier.logits(queries)
        self._check_backbone("logits")
        shuffled = check_logits(raw, len(source), len(self.card.classnames))
        logits = torch.empty_like(shuffled)
        logits[order] = shuffled
        return logits

    def _task(self) -> Task:
        train = self.session.source(self.dataset, self.split.train, self.spec)
        val = self.session.source(self.dataset, self.split.val, self.spec)
        view = functools.partial(
            shots_view, store=self.session.features, meter=self.meter, phase="encode_support"
        )
        return Task(
            classnames=self.card.classnames,
            templates=self.card.templates(self.spec.prompts),
            train=view(train),
            val=view(val) if self.split.val else None,
        )

    def _check_backbone(self, when: str) -> None:
        if self.backbone.fingerprint() != self.fingerprint:
            raise ContractError(
                f"{self.spec.method}.{when} left the backbone changed (weights, flags or hooks "
                "differ from before); work on copies, or undo the change before returning"
            )

    def _split_facts(self) -> dict[str, Any]:
        split = self.split
        return {
            "digest": split.digest,
            "protocol": split.protocol,
            "revision": split.revision,
            "classes": len(self.card.classnames),
            "train": len(split.train),
            "val": len(split.val),
            "test": len(split.test),
            "verified": verified_picks(split, self.card.name),
            "mirrored": self.card.mirrored,
            "templates": list(self.card.templates(self.spec.prompts)),
        }

    def _footprint(self, classifier: Classifier) -> dict[str, Any]:
        return {
            "trained": self.observer.trained,
            "trained_source": self.observer.source,
            "stored": stored_values(classifier, self.spec.method),
            "backbone": getattr(self.backbone, "parameters", None),
            "images_seen": self.meter.images_seen,
            "images_encoded": self.meter.images_encoded,
            "steps": self.observer.steps,
            "selection": self.context.selection,
        }

    def _environment(self) -> dict[str, Any]:
        facts = environment.describe(self.backbone.device)
        return facts | {
            "weights_digest": self.backbone.weights_digest,
            "activation": getattr(self.backbone, "activation", None),
            "method_origin": registry().methods.find(self.spec.method).origin.split(",")[0],
        }


def stored_values(classifier: Classifier, method: str) -> int:
    """How many values `tensors()` holds; ContractError when it is no mapping to tensors."""
    kept = classifier.tensors()
    wrong = not isinstance(kept, Mapping) or any(not isinstance(t, Tensor) for t in kept.values())
    if wrong:
        raise ContractError(f"{method}: tensors() returned {kept!r:.80}, expected names to tensors")
    return sum(tensor.numel() for tensor in kept.values())
