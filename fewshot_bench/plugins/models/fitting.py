"""Fits methods on parts of given images, and computes logits for others, in this process.

`FitRunner` is the entry point. Fits go through the runner (measured, guarded, retried in smaller
parts when memory runs out) and share features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api.record import Incidents
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALL_SHOTS, RunSpec
from fewshot_bench.images.decode import shrink
from fewshot_bench.plugins.models.material import Material, with_validation
from fewshot_bench.runner.variants import Variant
from fewshot_bench.store.kept_models import SUPPORT_SIDE, Support, evenly

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fewshot_bench.api.backbone import LoadedBackbone
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.runner.examiner import ImageList
    from fewshot_bench.runner.fit import Fitted
    from fewshot_bench.runner.request import Request
    from fewshot_bench.runner.session import Cell

    Places = NDArray[np.int64]

# Placeholder method where only the backbone matters.
ZERO_SHOT = Variant("zero-shot", {}, {}, "1")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Chosen:
    """Conditions of all fits of one call."""

    conditions: Request
    seed: int = 1
    exif: str = "ignore"


class FitRunner:
    """A backbone and given images. cache: a folder for features, or None for memory only."""

    def __init__(self, material: Material, chosen: Chosen, cache: Path | None = None) -> None:
        from fewshot_bench.runner.examiner import Examiner, LabelSpace
        from fewshot_bench.runner.request import weights_of
        from fewshot_bench.runner.session import Session

        self.material, self.chosen = material, chosen
        self.weights = weights_of(chosen.conditions.backbone)
        self._examiner = Examiner()
        self._session = Session(cache, chosen.conditions.devices[0], self._examiner)
        self.space = LabelSpace.of(material.dataset.card(), "custom", "all")

    @property
    def backbone(self) -> LoadedBackbone:
        """The loaded backbone."""
        return self._session.backbone(self.spec(ZERO_SHOT))[0]

    def spec(self, variant: Variant) -> RunSpec:
        """The spec of a method fitted on all images."""
        chosen, material = self.chosen, self.material
        return RunSpec(
            method=variant.method,
            dataset=material.dataset.card().name,
            shots=ALL_SHOTS,
            split_seed=chosen.seed,
            train_seed=chosen.seed,
            backbone=chosen.conditions.backbone,
            precision=chosen.conditions.precision,
            device=chosen.conditions.device,
            weights=self.weights,
            exif=chosen.exif,
            options=variant.options,
            overrides=variant.overrides,
            revision=material.revision,
            method_version=variant.version,
            data=material.data,
        )

    def fit(
        self,
        variant: Variant,
        train: Places,
        queries: Places,
        validation: bool,
        progress: Progress | None = None,
    ) -> tuple[Fitted, NDArray[np.float32]]:
        """Fit a method on some images; also returns (queries, classes) logits for others.

        validation: whether some of `train` are set apart as validation images. Errors of the
        method are raised.
        """
        from fewshot_bench.runner.evaluate import evaluate_within_memory
        from fewshot_bench.runner.fit import Failure, fit_within_memory
        from fewshot_bench.utils.plugin_code import own_interruptions

        cell = self._cell(variant, train, queries, validation)
        with own_interruptions() as interrupted:
            try:
                fitted = fit_within_memory(cell, self._session, progress, interrupted)
                if isinstance(fitted, Failure):
                    raise fitted.error
                if not len(queries):
                    return fitted, np.zeros((0, len(self.space.classnames)), np.float32)
                done = evaluate_within_memory(fitted, cell, self._session, Incidents(), interrupted)
                return fitted, done[1]
            except BaseException:
                self._session.drop_changed_backbone()
                raise

    def answer(
        self, fitted: Fitted, dataset: Dataset, items: tuple[Item, ...]
    ) -> NDArray[np.float32]:
        """(n, classes) logits of a fitted method for images of another data set."""
        from fewshot_bench.runner.evaluate import evaluate_within_memory
        from fewshot_bench.utils.plugin_code import own_interruptions

        lists = replace(fitted.cell.lists, queries=self._examiner.images(dataset, items, ()))
        cell = replace(fitted.cell, lists=lists)
        with own_interruptions() as interrupted:
            done = evaluate_within_memory(fitted, cell, self._session, Incidents(), interrupted)
        return np.asarray(done[1])

    def check_restored(self, fitted: Fitted) -> None:
        """ContractError if the tensors of a fit restore no classifier with the same answers."""
        from fewshot_bench.runner.restored import check_restored

        check_restored(fitted, self._session, Incidents())

    def encode(self, places: Places) -> Tensor:
        """(n, width) unit-norm features of some images, cached for all fits that use them."""
        from fewshot_bench.images.features import accounted, image_view
        from fewshot_bench.profiling.meter import Meter

        session, spec = self._session, self.spec(ZERO_SHOT)
        meter = Meter(self.backbone.device)
        with accounted(session.features, meter):
            source = session.source(self._images(places, labeled=False), spec)
            return image_view(source, session.features, meter, phase="encode_support").features

    def make_support(self) -> Support:
        """Features, classes and small pictures of the given images, or of an even part of many."""
        material = self.material
        places = np.array(evenly(material.labels.tolist()), dtype=np.int64)
        features, read = self.encode(places).cpu().numpy(), material.dataset.read
        pictures = tuple(
            shrink(read(material.items[index]), SUPPORT_SIDE) for index in places.tolist()
        )
        return Support(features, material.labels[places], pictures)

    def _cell(self, variant: Variant, train: Places, queries: Places, validation: bool) -> Cell:
        from fewshot_bench.runner.examiner import CellLists
        from fewshot_bench.runner.session import Cell

        val = train[:0]
        if validation:
            train, val = with_validation(self.material.copies, train, self.chosen.seed)
        lists = CellLists(
            self.space,
            self.space,
            train=self._images(train, labeled=True),
            val=self._images(val, labeled=True),
            queries=self._images(queries, labeled=False),
        )
        method = registry().method_class(variant.method)(**variant.options)
        return Cell(self.spec(variant), method, lists)

    def _images(self, places: Places, *, labeled: bool) -> ImageList:
        items = tuple(self.material.items[index] for index in places.tolist())
        labels = tuple(item.label for item in items) if labeled else ()
        return self._examiner.images(self.material.dataset, items, labels)
