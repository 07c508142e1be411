"""From labeled images to a kept model: choose a method, fit it on all images, write the folder.

`adapt` is the entry point, `fewshot_bench.adapt` in Python. Requests are checked before anything
is fitted; the folder is written completely or not at all.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.analysis.comparison import frame_rows
from fewshot_bench.api.keeping import name_of_class, reason_not_to_keep
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, EXIF, settle_exif
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.budget import BUDGET, KEPT, Budget, read_duration
from fewshot_bench.plugins.models.fitting import Chosen, FitRunner
from fewshot_bench.plugins.models.learned import Learned
from fewshot_bench.plugins.models.material import FOLDS, gather, with_validation
from fewshot_bench.plugins.models.model_card import card, show_learned
from fewshot_bench.plugins.models.place import check_free, put, refuse_model
from fewshot_bench.plugins.models.rejection import gather_others, measure
from fewshot_bench.plugins.models.search import NO_TWO, REPEATS, WHOLE, Candidate, Search, order
from fewshot_bench.plugins.models.suspects import HEADS, RELABEL, Rows, find_suspects, remark
from fewshot_bench.runner.own_data import DATASET, read_own_data
from fewshot_bench.runner.variants import Variant, expand_methods
from fewshot_bench.store.kept_methods import keep_methods
from fewshot_bench.store.kept_models import (
    MEASURES,
    MODEL_FILES,
    SOURCES,
    SUPPORT,
    TOP1,
    ModelConfig,
    config_of,
    image_digests,
    pack_sources,
    pack_support,
    without_path,
    write_model,
)
from fewshot_bench.utils import offline
from fewshot_bench.utils.arguments import (
    FLAG,
    FOLDER,
    Kind,
    checked,
    names,
    naming_arguments,
    number,
    optional,
    text,
    whole,
    word,
)
from fewshot_bench.utils.errors import NotApplicableError, UsageError
from fewshot_bench.utils.files import is_left_behind, temporary_name
from fewshot_bench.utils.text import SIZES, counted, read_size

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fewshot_bench.analysis.model import Model
    from fewshot_bench.runner.fit import Fitted
    from fewshot_bench.runner.request import Request

# The beginning of the name of a folder for features in TMPDIR.
_FEATURES = "fsbench-adapt"
_SHARE = number("a share above 0 and below 1", lambda share: 0 < share < 1)
_ARGUMENTS: Mapping[str, Kind] = {
    "dataset": DATASET,
    "output": FOLDER,
    "method": text("the name of a method, or 'auto'"),
    "options": Kind(
        "a mapping such as {'rank': 4}, or texts such as 'rank=4'",
        lambda given: given if isinstance(given, Mapping) else list(given),
    ),
    "budget": Kind("a time such as 10m, or seconds", read_duration),
    "exif": word(AUTO, *EXIF),
    "metric": word(*MEASURES),
    "backbone": text("a name"),
    "precision": text("a name"),
    "device": text("a name"),
    "templates": names("prompts", 0),
    "shots": optional(whole(1)),
    "relabel": optional(RELABEL),
    "seed": whole(0),
    "negatives": optional(FOLDER),
    "memory": optional(Kind(SIZES, read_size)),
    "reject": optional(Kind(_SHARE.expected, lambda v: KEPT if v is True else _SHARE.read(v))),
    **dict.fromkeys(("skip_damaged", "force", "keep_support", "keep_contradictions"), FLAG),
}


@dataclass(frozen=True)
class Adapted:
    """A model that was kept: its folder and config, and the rows of `tried`.

    learned: the answers to images that were held out; None if none were.

    >>> adapt("folder:photos", "model").tried.sort_values("accuracy")
    """

    folder: Path
    config: ModelConfig
    methods: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    learned: Learned | None = None

    @property
    def tried(self) -> pd.DataFrame:
        """A row for each method: method, accuracy, low, high, seconds, folds, chosen, note.

        accuracy, low, high: shares of held-out images, with their interval; NaN if none was.
        """
        return frame_rows(self.methods)

    @property
    def classes(self) -> pd.DataFrame:
        """A row for each class, as `Learned.classes`; none if nothing was held out."""
        return frame_rows(self.config.classes)

    @property
    def suspects(self) -> pd.DataFrame:
        """The rows of `suspects.csv`; none if nothing was held out."""
        return frame_rows(find_suspects(self.learned) if self.learned else (), HEADS)

    def __repr__(self) -> str:
        mean = self.config.accuracy.get("mean")
        stated = "" if mean is None else f", accuracy {100 * mean:.1f} % on held-out images"
        return f"Adapted('{self.folder}': {self.config.method} on {self.config.backbone}{stated})"

    def model(self, device: str = AUTO, method: type | str | None = None) -> Model:
        """Load the model from its folder; device, method: as in `load_model`."""
        from fewshot_bench.analysis.model import load_model

        return load_model(self.folder, device=device, method=method)


@naming_arguments
def adapt(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: str = AUTO,
    options: Mapping[str, Any] | Sequence[str] = (),
    metric: str = TOP1,
    backbone: str = AUTO,
    precision: str = AUTO,
    device: str = AUTO,
    budget: str | float = BUDGET,
    memory: int | str | None = None,
    reject: bool | float | None = None,
    negatives: str | os.PathLike[str] | None = None,
    shots: int | None = None,
    relabel: str | os.PathLike[str] | Rows | None = None,
    seed: int = 1,
    classnames: Any = None,
    templates: str | Sequence[str] = (),
    exif: str = AUTO,
    keep_contradictions: bool = False,
    skip_damaged: bool = False,
    force: bool = False,
    keep_support: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Adapted:
    """Choose a method by cross-validation within the labeled images of a data set, and keep it.

    Images of the data set's test list are not touched. Arguments are the options of
    `fsbench adapt` (docs/reference/commands.md).

    method: one, or `auto` to choose; options: its hyper-parameters, `{"rank": 4}` or
    `["rank=4"]`. metric: `top1`, or `macro` (the mean recall of the classes), to choose by and to
    state. budget: a time such as `10m`, or seconds, for everything until the folder is written.
    memory: bytes, or `4GB`. reject: the share of right images to keep (True: 0.95), for a threshold
    below which an image belongs to no class. relabel: a file of corrected labels such as
    `suspects.csv`, or its rows: image, label and class.
    keep_contradictions: pictures under two labels count in the accuracy, too. keep_support: put
    small pictures of the images into the folder, which `fsbench app` shows beside its answers.
    say: gets the lines on the images, before anything is fitted.

    Raises UsageError for unknown or impossible arguments, DataMissingError for unreadable images,
    NotApplicableError for a method that cannot be kept. KeyboardInterrupt leaves no folder if no
    method was tried yet, else the best so far is fitted and written.

    >>> adapt("photos", "model", budget="5m").folder
    """
    given = checked(_ARGUMENTS, {k: v for k, v in locals().items() if k in _ARGUMENTS})
    offline.enforce_if_asked()
    clock = Budget(given["budget"], given["memory"])
    name, folder = given["dataset"], given["output"]
    refuse = refuse_model(folder, force)
    check_free(folder, refuse)
    _refuse_inside(folder, name, relabel)
    variants = _variants(method.removesuffix(WHOLE), given["options"])
    conditions = _conditions(name, backbone, precision, device)
    chosen = Chosen(conditions, seed, settle_exif(exif, name))
    data = read_own_data(classnames, given["templates"], None)
    # They are decoded again to be encoded.
    with clock.refusing(more=1):
        material = gather(
            name, data, shots, seed, skip_damaged, keep_contradictions, given["relabel"]
        )
        for line in material.lines:
            say(line)
    others = gather_others(given["negatives"], material) if given["negatives"] else None
    # Before the fits: a file that is gone afterwards costs no model.
    stated_files = image_digests(material.files)
    with scratch() as cache:
        runner = FitRunner(material, chosen, cache)
        search = Search(runner, variants, clock, REPEATS, metric, method.endswith(WHOLE))
        search.run()
        winner, fitted, chosen_by = search.finish()
        support = runner.make_support() if keep_support else None
        stated, learned = _estimate(search, winner, given, chosen_by)
        if others and learned:
            answers = runner.answer(fitted, others, others.listed)
            sure = estimates.confidences(answers, stated["temperature"])
            stated["reject"], more = measure(learned, sure, others.groups, given["reject"])
            stated["accuracy"] |= more
    config = _config(runner, winner, fitted, stated, stated_files)
    tried = tuple(_row(search, candidate, winner) for candidate in search.candidates)
    wanted = bool(others or given["reject"])
    notes = (*material.notes, *_remark(search, winner, config, learned, wanted))
    notes += (others.note,) if others else ()
    if support is not None:
        notes += (f"{SUPPORT} holds small pictures of {len(support.pictures):,} of the images",)
    extras = {} if support is None else {SUPPORT: pack_support(support)}
    settled = {"method": winner.title, "options": dict(winner.variant.chosen), **data}
    extras[SOURCES] = pack_sources(name, given | settled)
    extras |= show_learned(config, learned, material, tried, notes)
    told, tensors = card(config, tried, notes), fitted.classifier.tensors()
    written = put(
        *(folder, MODEL_FILES, refuse),
        lambda made: write_model(made, config, tensors, told, extras),
    )
    keep_methods(written, [config.method])
    if written != folder:
        notes += (f"{folder} was taken while methods were fitted: the model is in {written}",)
    return Adapted(written, config, tried, notes, learned)


@contextmanager
def scratch() -> Iterator[Path | None]:
    """A folder for the time of a call, as for features; None if the disk has no room.

    Folders of processes that were killed are removed first.
    """
    folder = None
    with ExitStack() as stack:
        with suppress(OSError):
            for left in Path(tempfile.gettempdir()).glob(f"{_FEATURES}~*"):
                if is_left_behind(left):
                    shutil.rmtree(left, ignore_errors=True)
            name = temporary_name(_FEATURES)
            made = tempfile.TemporaryDirectory(prefix=name, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        yield folder


def _refuse_inside(folder: Path, dataset: str, relabel: Any) -> None:
    """UsageError for a folder that would be read as a class of images, or whose file is read."""
    is_path = isinstance(relabel, str | os.PathLike)
    if is_path and Path(relabel).resolve().parent == folder.resolve():
        raise UsageError(f"--relabel {relabel}: is replaced with the model; copy it elsewhere")
    images = Path(dataset.partition(":")[2]).expanduser()
    if ":" in dataset and images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise UsageError(
            f"--output {folder}: lies in the folder of the images, {images}, where it would be "
            "read as a class of images; choose a folder beside it"
        )


def _variants(method: str, options: Mapping[str, Any] | Sequence[str]) -> list[Variant]:
    """The methods to choose among, from cheap to expensive; only one if it was named."""
    plugins = registry()
    given = (
        [(key, (value,)) for key, value in options.items()]
        if isinstance(options, Mapping)
        else list(options)
    )
    if method != AUTO:
        variants = expand_methods([method], given, plugins)
        if len(variants) != 1:
            raise UsageError(
                f"method '{method}' and its options stand for {len(variants)}: give one"
            )
        reason = reason_not_to_keep(plugins.method_class(variants[0].method))
        if reason:
            raise NotApplicableError(f"{variants[0].method} cannot be kept: {reason}")
        return variants
    kept = [
        name
        for name in order()
        if not reason_not_to_keep(plugins.method_class(name.partition("[")[0]))
    ]
    return expand_methods(kept, given, plugins)


def _conditions(dataset: str, backbone: str, precision: str, device: str) -> Request:
    from fewshot_bench.backbones import loading
    from fewshot_bench.engines.asking import settle
    from fewshot_bench.runner.request import Request

    asked = Request((), (dataset,), backbone=backbone, precision=precision, devices=(device,))
    request = settle(asked)
    loading.check(request.backbone)
    return request


def _estimate(
    search: Search, winner: Candidate, given: Mapping[str, Any], chosen_by: NDArray[np.float32]
) -> tuple[dict[str, Any], Learned | None]:
    """Fields of the config from the winner's out-of-fold logits, and its answers.

    given: arguments of `adapt`. chosen_by: (n, classes) logits of the kept model for images that it
    chose its settings by. Fits that choose settings differ in logit scale, so the temperature is
    fitted to logits of equal scale and multiplied by the kept model's scale on those images.
    """
    finalists, repeats = search.finalists, search.repeats
    if winner not in finalists:
        return {"accuracy": {}}, None
    material, place = search.runner.material, finalists.index(winner)
    estimate = estimates.estimate(search.shares, place, search.weights, search.runner.chosen.seed)
    each, labels = np.stack(winner.logits[:repeats]), np.tile(search.labels, repeats)
    parts = np.concatenate(winner.parts[:repeats])
    # The folds of one repeat: an image of a fold is in other folds of the other repeats.
    first = np.tile(winner.parts[0], repeats)
    fits = parts + FOLDS * np.repeat(np.arange(repeats), len(search.labels))
    held = parts >= 0
    logits, labels, fits = each.reshape(len(parts), -1)[held], labels[held], fits[held]
    scale, images = 1.0, len(search.units.places)
    if len(chosen_by):
        logits, scale = estimates.rescale(logits, fits), estimates.scale_of(chosen_by)
    temperature = estimates.temperature_of(logits, labels, images)
    error = estimates.calibration_error(logits, labels, first[held], images)
    kept = given["reject"]
    threshold = kept and estimates.threshold(logits, labels, temperature, kept, images)
    each.reshape(len(parts), -1)[held] = estimates.softmax(logits, temperature)
    ids, groups = tuple(item.id for item in material.items), material.copies.groups
    learned = Learned(ids, search.labels, groups, material.classnames, each)
    numbers = vars(estimate) | {"level": estimates.LEVEL, "folds": FOLDS, "repeats": repeats}
    numbers |= {"methods": len(finalists), "calibration_error": error}
    # A config holds floats, which counts would differ from once it is read.
    accuracy = {"metric": given["metric"]} | {name: float(one) for name, one in numbers.items()}
    if material.given:
        # By the labels before corrections, which no model suggested, and corrected for the choice.
        before = np.array([material.given[id] for id in ids])
        gap = replace(learned, labels=before).mean(given["metric"]) - learned.mean(given["metric"])
        accuracy["original"] = max(0.0, estimate.mean + gap)
    stated = {"accuracy": accuracy, "temperature": temperature * scale, "reject": threshold}
    return stated | {"classes": tuple(learned.classes())}, learned


def _config(
    runner: FitRunner,
    winner: Candidate,
    fitted: Fitted,
    stated: Mapping[str, Any],
    files: Mapping[str, str],
) -> ModelConfig:
    material, chosen = runner.material, runner.chosen
    train = every = np.arange(len(material.labels))
    if winner.validation:
        # The final fit set the others apart.
        train, _ = with_validation(material.copies, every, chosen.seed)
    held_out = len(every) - len(train)
    counts = np.bincount(material.labels[train], minlength=len(material.classnames)).tolist()
    return config_of(
        winner.name,
        fitted.cell.method,
        fitted.backbone,
        runner.space,
        classifier=name_of_class(fitted.classifier),
        exif=chosen.exif,
        data={
            "dataset": without_path(material.dataset.card().name),
            "revision": material.revision,
            "split": material.digest,
            "shots": "all",
            "images": dict(zip(material.classnames, counts, strict=True)),
            "validation": held_out,
            "val": "min4" if held_out else "none",
            "selection": dict(fitted.declared.selection),
            "seed": chosen.seed,
            **files,
        },
        notes=fitted.declared.notes,
        **stated,
    )


def _row(search: Search, candidate: Candidate, winner: Candidate) -> Mapping[str, Any]:
    """A row of `Adapted.tried`."""
    own = estimates.Accuracy(math.nan, math.nan, math.nan, 0)
    if candidate.repeats:
        repeats = search.repeats if candidate in search.finalists else candidate.repeats
        own = estimates.own(candidate.right(search.units, repeats), search.weights)
    return {
        "method": candidate.title,
        "accuracy": own.mean,
        "low": own.low,
        "high": own.high,
        "seconds": math.fsum(candidate.seconds),
        "folds": len(candidate.seconds),
        "chosen": candidate is winner,
        "note": search.why if candidate is winner else candidate.dropped,
    }


def _remark(
    search: Search,
    winner: Candidate,
    config: ModelConfig,
    learned: Learned | None,
    rejects: bool,
) -> Iterator[str]:
    lone = len(config.classnames) - len({*search.units.labels.tolist()})
    if lone and search.folds:
        yield f"{counted(lone, 'class', 'classes')} without two different images: in no estimate"
    if learned is not None and config.accuracy["metric"] == TOP1 and (text := learned.remark()):
        yield text
    if learned is not None and (text := remark(learned)):
        yield text
    if not config.accuracy:
        unfinished = winner.dropped or "the budget ended before a comparison was finished"
        reason = search.stopped or (unfinished if search.folds else NO_TWO)
        yield f"nothing was held out ({reason}), so that no accuracy is stated"
    elif search.stopped:
        yield search.stopped
    if rejects and config.reject is None:
        yield "too few right answers for a threshold: nothing is rejected"
