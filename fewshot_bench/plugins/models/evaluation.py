"""Measures a kept model on the test images of a data set, with a record like that of a cell.

`evaluate` is the entry point. The record has the protocol `kept` and the digest of the model as
`picks`, so that no table mixes it with the cells of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.api.dataset import MOST_COMPARED, Undivided
from fewshot_bench.api.method import configuration
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.metrics import Answers, rounded
from fewshot_bench.api.record import Record, image_facts
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import (
    ALL_SHOTS,
    DEFAULT_STORE,
    KEPT_MODEL,
    RunSpec,
    canonical_json,
    plain,
)
from fewshot_bench.api.task import Split
from fewshot_bench.images.copies import group_copies, look_closely
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.images.digests import Known
from fewshot_bench.plugins.models.material import trainable
from fewshot_bench.runner.own_data import DATASET, ClassNames, open_whole, read_own_data
from fewshot_bench.store.kept_models import IMAGES, image_digest, read_sources, without_path
from fewshot_bench.store.store import Store
from fewshot_bench.utils.arguments import checked, naming_arguments
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, StoreError, UsageError
from fewshot_bench.utils.progress import over
from fewshot_bench.utils.rng import derive
from fewshot_bench.utils.text import digest_of, few

if TYPE_CHECKING:
    from fewshot_bench.analysis.model import Model
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.profiling.meter import Meter
    from fewshot_bench.store.kept_models import ModelConfig


@dataclass(frozen=True)
class Evaluation:
    """The record of a kept model on a data set, and its answers in the order of the test list.

    left_out: test images that are copies of images of the fit, and in no number. set_aside: images
    that are no test images because the data set was divided by itself. later: images that its
    stored split does not list. unsearched: which copies are not found.
    """

    record: Record
    answers: Answers
    ids: tuple[str, ...]
    left_out: int = 0
    set_aside: int = 0
    later: int = 0
    unsearched: str = ""

    def write(self, store: Path) -> Evaluation:
        """Write it to a store, which is made if missing; returns the stored evaluation."""
        opened = Store(store)
        opened.create()
        return replace(self, record=opened.write(self.record, self.answers, self.ids))

    def list_classes(self) -> dict[str, float]:
        """The accuracy of each class that has test images, in percent."""
        hits, labels = self.answers.hits, self.answers.labels
        return {
            name: round(100 * float(hits[labels == label].mean()), 6)
            for label, name in enumerate(self.record.split["classnames"])
            if (labels == label).any()
        }


@naming_arguments
def evaluate(
    model: Model | str | PathLike[str],
    dataset: str | PathLike[str],
    *,
    store: str | PathLike[str] | None = None,
    device: str = "auto",
    classnames: ClassNames | None = None,
) -> Record:
    """Measure a kept model on the test images of a data set with the same classes.

    model: a loaded model, or an argument of `load_model`. store: results folder to write the record
    and its answers to. device: for a model that is loaded here. classnames: own names for the
    classes of the data set, as those of `fewshot_bench.adapt`. Copies of images that the model was
    made from are left out. UsageError if classes differ, or if it may be made from all of the test
    images; DataMissingError if there are no test images.

    >>> evaluate("model", "folder:photos").metrics["top1"]
    """
    from fewshot_bench.analysis.model import Model, load_model

    name = checked({"dataset": DATASET}, {"dataset": dataset})["dataset"]
    opened = model if isinstance(model, Model) else load_model(model, device=device)
    data, folder = read_own_data(classnames, (), None), None if store is None else Path(store)
    evaluation = measure(opened, name, folder, data)
    return (evaluation if folder is None else evaluation.write(folder)).record


def measure(model: Model, name: str, store: Path | None, own: Mapping[str, Any]) -> Evaluation:
    """Measure a model on the test images of a data set.

    store: has splits of own images. own: class names, as in `RunSpec.data`.
    """
    from fewshot_bench.profiling.meter import Meter
    from fewshot_bench.profiling.peak_memory import PeakMemory
    from fewshot_bench.runner.evaluate import environment_of

    dataset = registry().dataset(name, own, store or Path(DEFAULT_STORE))
    items = tuple(dataset.items().get("test", ()))
    if not items:
        raise DataMissingError(f"{name} has no test images; choose another data set")
    places = _match_columns(model.classnames, dataset.card().classnames, name)
    set_aside, later = _count_others(model, name, dataset, items)
    digests = ImageFiles(dataset, items).digests
    new, unsearched = _without_copies(model, name, dataset, items, digests)
    left_out = len(items) - len(new)
    if not new:
        raise _refuse_seen(name, len(items))
    items, digests = (tuple(all[index] for index in new) for all in (items, digests))
    spec = _spec(model, name, dataset, own)
    split = Split(spec.dataset, spec.revision, KEPT_MODEL, spec.shots, 0, (), (), items)
    meter, memory = Meter(model.backbone.device), PeakMemory(model.backbone.device)
    facts = image_facts((), (), digests)
    with memory.watch():
        logits = _logits(model, dataset, split, places, meter)
    answers = Answers.of(logits, np.array([item.label for item in items], dtype=np.int64))
    config = model.config
    kept_model = {
        "digest": spec.picks,
        "fsbench": config.fsbench,
        "method_code": config.method_code,
        "data": {name: value for name, value in config.data.items() if name != IMAGES},
        "notes": dict(config.notes),
        "temperature": config.temperature,
    }
    kept_model |= {"left_out": left_out} if left_out else {}
    kept_model |= {"unsearched": unsearched} if unsearched else {}
    record = Record(
        spec=spec,
        status="done",
        split=_split(model.config, dataset, split) | {"test_images": facts["test_images"]},
        metrics=rounded(answers),
        footprint=_footprint(model, meter) | {"peak_memory_mb": round(memory.megabytes, 1)},
        timings=meter.timings(),
        environment=environment_of(model.backbone, model.config.method, type(model.method)),
        notes={"kept_model": kept_model},
    )
    ids = tuple(item.id for item in items)
    return Evaluation(record, answers, ids, left_out, set_aside, later, unsearched)


def _without_copies(
    model: Model, name: str, dataset: Dataset, items: Sequence[Item], digests: Sequence[bytes]
) -> tuple[list[int], str]:
    """Indices of test images that copy no image of the fit, and which copies are not found.

    Images of the fit are looked for in the data set, and where the model was made.
    """
    stated, names = model.config.fitted_images, [name]
    fitted: dict[str, tuple[Item, Known]] = {}
    with suppress(StoreError):
        names += read_sources(model.path).datasets
    for place in dict.fromkeys(names):
        # Images that are gone are named below.
        with suppress(FsbenchError):
            whole = open_whole(place, lenient=True)
            trained = trainable(whole.items())
            if len(trained) + len(items) <= MOST_COMPARED:
                for item, one in zip(trained, look_closely(whole, trained), strict=True):
                    if isinstance(one, Known) and (digest := image_digest(one.sha)) in stated:
                        fitted[digest] = item, one
    seen, unsearched = np.array([image_digest(sha) in stated for sha in digests]), ""
    if fitted:
        mine, theirs = zip(*fitted.values(), strict=True)
        copies = group_copies((*items, *mine), (*look_closely(dataset, items), *theirs))
        unsearched, groups = copies.unsearched, copies.groups
        seen |= np.isin(groups[: len(items)], groups[len(items) :])
    if lost := len(stated) - len(fitted):
        unsearched = (
            f"{lost:,} of the {len(stated):,} images that the model was made from were not searched"
            " for copies of another size or compression"
        )
    return np.flatnonzero(~seen).tolist(), unsearched


def _count_others(
    model: Model, name: str, dataset: Dataset, items: Sequence[Item]
) -> tuple[int, int]:
    """Images of a data set without test images of its own: its training part, and unlisted ones.

    UsageError if the model may be made from the test images and does not state its images.
    """
    from fewshot_bench.runner.preflight import revision_of

    if not isinstance(dataset, Undivided):
        return 0, 0
    whole = dataset.undivided()
    usable = {item.id for item in trainable(whole.items())}
    if usable.isdisjoint(item.id for item in items):
        return 0, 0
    config = model.config
    then, now = str(config.data.get("revision")), revision_of(name, dataset)
    if not config.fitted_images and whole.card().revision == then:
        raise _refuse_seen(name, len(items))
    # Of the same revision, the test images are those of the split that the fit was a part of.
    same = config.data.get("dataset") == without_path(dataset.card().name)
    if not config.fitted_images and now != then and same:
        split = ", or name the store of its run by --store" if "cell" in config.data else ""
        raise UsageError(
            f"the model was made from {config.data['dataset']} of revision {then:.12}, {name} has "
            f"{now:.12}, and the model does not state its images: some of the {len(items):,} test "
            f"images may be among them; evaluate a folder of other images{split}"
        )
    training = {item.id for item in trainable(dataset.items())}
    return len(training), len(usable - training - {item.id for item in items})


def _refuse_seen(name: str, count: int) -> UsageError:
    return UsageError(
        f"all {count:,} test images of {name} are among the images that the model was made from: "
        "their accuracy says nothing about others; evaluate a folder of other images"
    )


def _match_columns(fitted: Sequence[str], asked: Sequence[str], dataset: str) -> list[int]:
    """The model's column for each class of the data set; UsageError if names differ."""
    alone, lacking = [sorted(set(a) - set(b)) for a, b in ((fitted, asked), (asked, fitted))]
    if alone or lacking:
        texts = [f"the model alone has {few(alone)}"] if alone else []
        texts += [f"{dataset} alone has {few(lacking)}"] if lacking else []
        raise UsageError(
            f"classes differ: {'; '.join(texts)}; names must be equal (--classnames renames those "
            "of the data set)"
        )
    return [fitted.index(name) for name in asked]


def _spec(model: Model, name: str, dataset: Dataset, own: Mapping[str, Any]) -> RunSpec:
    """The spec of the fit, but for this data set; StoreError if the config gives no valid one."""
    from fewshot_bench.runner.preflight import revision_of
    from fewshot_bench.runner.request import canonical, weights_of
    from fewshot_bench.runner.variants import variant_of

    config = model.config
    variant = variant_of(config.method, type(model.method), configuration(model.method))
    fit = config.data
    seed = fit.get("seed", 0)
    values = {
        "method": variant.method,
        "dataset": canonical(name, dataset),
        "shots": fit.get("shots", plain(ALL_SHOTS)),
        "split_seed": fit.get("split_seed", seed),
        "train_seed": seed,
        "protocol": KEPT_MODEL,
        "val": fit.get("val", "none"),
        "prompts": fit.get("prompts", "custom"),
        "backbone": config.backbone,
        "weights": weights_of(config.backbone),
        "precision": config.precision,
        "device": model.backbone.device.type,
        "exif": config.exif,
        "views": variant.card.views_per_query,
        "options": dict(variant.options),
        "overrides": dict(variant.overrides),
        "method_version": variant.version,
        "revision": revision_of(name, dataset),
        "picks": str(config.as_json()["digest"]),
        "data": own,
    }
    try:
        return RunSpec.from_dict(values)
    except StoreError as error:
        raise StoreError(f"{model.path}: its config states no fit: {error}") from None


def _logits(
    model: Model, dataset: Dataset, split: Split, places: Sequence[int], meter: Meter
) -> np.ndarray:
    """(n, classes) logits, divided by the temperature, in the order of the test list.

    Images are shuffled with a seed from the split digest: an order grouped by class would leak
    labels.
    """
    from fewshot_bench.images.user_images import Encoded

    items: Sequence[Item] = split.test
    order = np.random.default_rng(derive(0, "queries", split.digest)).permutation(len(items))
    images = (Encoded(items[i].id, partial(dataset.read, items[i])) for i in order.tolist())
    counted = over(images, f"images of {split.dataset}", len(order))
    asked = model.measured_logits(counted, meter).numpy()[:, places]
    logits = np.empty((len(items), len(places)), dtype=np.float32)
    logits[order] = asked / np.float32(model.config.temperature)
    return logits


def _split(config: ModelConfig, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Facts on the images of the fit, as stated by the model, and on the test images."""
    card, fit = dataset.card(), config.data
    counts = fit.get("images", ())
    counts = list(counts.values() if isinstance(counts, Mapping) else counts)
    fitted = canonical_json([fit.get("split", ""), split.digest])
    return {
        "digest": digest_of(fitted, 64),
        "protocol": KEPT_MODEL,
        "revision": split.revision,
        "classes": len(card.classnames),
        "train": sum(counts),
        "val": fit.get("validation", 0),
        "test": len(split.test),
        "verified": None,
        "mirrored": card.mirrored,
        "templates": list(config.templates),
        "classnames": list(card.classnames),
    }


def _footprint(model: Model, meter: Meter) -> dict[str, Any]:
    """Costs of inference; the costs of the fit are not stored with a model."""
    footprint: dict[str, Any] = {
        "trained": None,
        "stored": sum(tensor.numel() for tensor in model.classifier.tensors().values()),
        "backbone": getattr(model.backbone, "parameters", None),
        "images_seen": meter.images_seen,
        "images_encoded": meter.images_encoded,
        "work": meter.work(),
    }
    config = model.config
    footprint |= {"selection": stated} if (stated := config.data.get("selection")) else {}
    with suppress(Exception):
        card = card_of(model.method)
        footprint |= {"card": card.to_dict()} if card else {}
    return footprint
