"""`Bench`: a method on the toy task, fitted once per setting so that checks share the fits."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.api.items import Item
from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.task import Task
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.evaluate import begin
from fewshot_bench.runner.fit import Context
from fewshot_bench.runner.session import import_stated
from fewshot_bench.testing.failure import CheckSkipped
from fewshot_bench.testing.observe import Observation, observe
from fewshot_bench.testing.toy import (
    CLASSNAMES,
    TEMPLATES,
    ToyDataset,
    WatchedImages,
    WatchedShots,
    dataset_of,
    draw,
    toy_backbone,
)
from fewshot_bench.training.train_step import TrainStep
from fewshot_bench.utils.rng import isolate
from fewshot_bench.utils.step_kind import Kind

SHOTS = 4
VALIDATION = 2
QUERIES = 16
SEED = 1


@dataclass(frozen=True)
class Setting:
    """Settings of one fit; `classes` lists toy classes in the order of the task.

    most_steps: limits optimizer steps, each of which is undone at once; None leaves training alone.
    texts: the toy class that the text of each class names, in a run with texts; empty for prompts.
    """

    shots: int = SHOTS
    validation: int = VALIDATION
    classes: tuple[int, ...] = (0, 1, 2, 3)
    precision: str = "fp32"
    step: Kind = "eager"
    most_steps: int | None = None
    texts: tuple[int, ...] = ()


@dataclass
class Fit:
    """One fitted classifier, with everything observed during the fit.

    steps: the training steps that `fit` got from its context. trained: the parameters that it
    moved, beside those that answers move. sees: of the method's card.
    """

    setting: Setting
    task: Task
    backbone: Any
    context: Context
    queries: ImageSource
    labels: Tensor
    steps: list[TrainStep] = field(default_factory=list)
    trained: list[Tensor] = field(default_factory=list)
    sees: str = "query"
    classifier: Any = None
    logits: Any = None
    seen: Observation = field(default_factory=Observation)
    fingerprints: list[str] = field(default_factory=list)
    views: list[WatchedImages] = field(default_factory=list)

    def predict(self, order: Sequence[int] | None = None, classifier: Any = None) -> Any:
        """The logits of the queries `order` (default: all, in order), in one batch or stream.

        classifier: another one than the fitted one.
        """
        order = range(len(self.queries)) if order is None else order
        return self.answer([order], max(1, len(order)), classifier)

    def answer(self, groups: Sequence[Sequence[int]], part: int, classifier: Any = None) -> Any:
        """The logits of groups of queries, one after the other; streams in parts of a size."""
        own, rows = classifier or self.classifier, []
        with torch.no_grad():
            for group in groups:
                answer, count = begin(own, self.sees), max(1, len(group))
                size = part if self.sees == "stream" else count
                rows += [answer(self.view(group[at : at + size])) for at in range(0, count, size)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def view(self, order: Sequence[int] | None = None) -> WatchedImages:
        """The queries `order` (default: all, in order), without labels."""
        view = WatchedImages(_view(self.queries, order))
        self.views.append(view)
        return view

    @property
    def answers(self) -> str:
        """The function of the classifier that answers."""
        return "start" if self.sees == "stream" else "logits"

    def stored(self) -> Mapping[str, Tensor]:
        """The result of `tensors`; CheckSkipped if it is no mapping (one check reports that)."""
        tensors = self.classifier.tensors()
        if not isinstance(tensors, Mapping):
            raise CheckSkipped("needs the mapping that tensors() must return")
        return tensors

    def tensors(self) -> list[Tensor]:
        """The stored tensors on the device of the backbone."""
        stored = self.stored().values()
        return [tensor for tensor in stored if tensor.device == self.backbone.device]


def skip_unless_finite(made: object) -> None:
    """CheckSkipped if the logits of a fit are not finite, which one check reports."""
    logits = getattr(made, "logits", None)
    if isinstance(logits, Tensor) and not bool(logits.isfinite().all()):
        raise CheckSkipped("needs finite logits")


class Bench:
    """A method under test. Each named fit is made on first use and kept."""

    def __init__(self, method: Any, device: str = "cpu") -> None:
        self.method = method
        self.device = device

    @property
    def first(self) -> Fit:
        """The usual task: four classes, four shots, two validation images per class.

        Fitted once; an error of the fit is raised again on every access.
        """
        if not isinstance(self.tried, Fit):
            raise self.tried
        return self.tried

    @functools.cached_property
    def tried(self) -> Fit | BaseException:
        """The first fit, or the exception that it raised."""
        try:
            return fit(self.method, Setting(), self.device, watched=True)
        except (Exception, SystemExit) as error:
            return error

    @functools.cached_property
    def again(self) -> Fit:
        """A second fit of the same instance, task and seed."""
        _ = self.first
        return self.fit()

    @functools.cached_property
    def untrained(self) -> Fit | None:
        """A fit whose optimizer steps are undone: the state that training starts from.

        None for a method without steps, and for one that needs their effect to end its fit.
        """
        if not self.first.seen.moved:
            return None
        try:
            return self.fit(most_steps=self.first.seen.steps)
        except (Exception, SystemExit):
            return None

    def fit(self, **values: Any) -> Fit:
        """A new fit; values: those of its `Setting`."""
        skip_unless_finite(vars(self).get("tried"))
        return fit(self.method, Setting(**values), self.device)


def fit(method: Any, setting: Setting, device: str, *, watched: bool = False) -> Fit:
    """Fit a method as the runner does, on a new toy backbone, and predict all queries.

    watched: take fingerprints of the backbone before and after each step.
    """
    import_stated(str(getattr(method, "name", "")), getattr(method, "imports", ()))
    made = prepare(setting, toy_backbone(device, setting.precision))
    made.sees = read_card(method).sees

    def look() -> None:
        if watched:
            made.fingerprints.append(made.backbone.fingerprint())

    look()
    with isolate(SEED), observe(setting.most_steps) as seen:
        made.classifier = method.fit(made.task, made.backbone, made.context)
        made.steps, made.trained = made.context.take_steps(), seen.so_far()
        look()
        if callable(getattr(made.classifier, made.answers, None)):
            made.logits = made.predict()
            look()
    made.seen = seen
    return made


def prepare(setting: Setting, backbone: Any, parts: int = 1) -> Fit:
    """Task, queries and context on a backbone, at its precision, without a fit."""
    names = tuple(CLASSNAMES[index] for index in setting.classes)
    texts = tuple((f"a photo of a {CLASSNAMES[index]}.",) for index in setting.texts)
    train = WatchedShots(_view(_source("train", setting.shots, setting, backbone), labeled=True))
    val = None
    if setting.validation:
        source = _source("val", setting.validation, setting, backbone)
        val = WatchedShots(_view(source, labeled=True))
    queries, labels = _queries(setting, backbone)
    made = Fit(
        setting,
        Task(names, TEMPLATES, train, val, texts=texts),
        backbone,
        Context(SEED, backbone.device, backbone.precision, parts=parts, step=setting.step),
        queries,
        labels,
    )
    made.views += [view for view in (train, val) if view is not None]
    return made


def _source(stream: str, count: int, setting: Setting, backbone: Any) -> ImageSource:
    """Images of the setting's classes in the toy's own order, labeled in the setting's order."""
    dataset, items = _files(stream, count)
    return ImageSource.of(dataset, _relabel(items, setting), backbone)


def _relabel(items: Sequence[Item], setting: Setting) -> list[Item]:
    return [
        Item(item.id, setting.classes.index(item.label), "")
        for item in items
        if item.label in setting.classes
    ]


def _queries(setting: Setting, backbone: Any) -> tuple[ImageSource, Tensor]:
    """Unlabeled queries, and separately their labels."""
    dataset, items = _files("queries", QUERIES)
    labeled = _relabel(items, setting)
    nameless = [Item(item.id, -1, "") for item in labeled]
    source = ImageSource(ImageFiles(dataset, nameless), len(nameless), backbone)
    return source, torch.tensor([item.label for item in labeled], dtype=torch.int64)


@functools.cache
def _files(stream: str, count: int) -> tuple[ToyDataset, tuple[Item, ...]]:
    pixels, labels = draw(count, stream)
    return dataset_of(pixels, labels.tolist())


def _view(source: ImageSource, order: Sequence[int] | None = None, labeled: bool = False) -> Any:
    """A view as the runner passes it to methods; its measured cost is discarded."""
    meter = Meter(source.backbone.device)
    indices = None if order is None else list(order)
    store = FeatureCache(None)
    return image_view(source, store, meter, phase="fit", order=indices, labeled=labeled)
