"""Inference with a kept model: `load_model` opens a folder, `Model` classifies images.

Opening executes no code from the folder. Images pass through the same code as in runs, so that the
logits equal those of the run, bit for bit on one device.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import os
import reprlib
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fewshot_bench.analysis.comparison import frame_rows
from fewshot_bench.api.defaults import check_device
from fewshot_bench.api.keeping import class_named, reason_not_to_keep, restore
from fewshot_bench.api.method import Classifier, convert_value, hyperparameters
from fewshot_bench.api.method_code import EXAMPLE, name_of
from fewshot_bench.api.option_files import look_in, open_files
from fewshot_bench.api.own_methods import OwnMethod, digest_in, stated_in
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, EXIF, PRECISIONS
from fewshot_bench.store.hub import model_folder
from fewshot_bench.store.kept_methods import find_method
from fewshot_bench.store.kept_models import ModelConfig, Support, read_model, read_support
from fewshot_bench.utils import devices
from fewshot_bench.utils.arguments import checked, text, whole
from fewshot_bench.utils.errors import (
    ContractError,
    DataMissingError,
    FsbenchError,
    NotApplicableError,
    StoreError,
    UsageError,
    WrongTypeError,
)
from fewshot_bench.utils.image_formats import pictures_below
from fewshot_bench.utils.plugin_code import plugin_code
from fewshot_bench.utils.rng import derive, seed_of_fit

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fewshot_bench.api.backbone import LoadedBackbone
    from fewshot_bench.images.feature_cache import FeatureCache
    from fewshot_bench.images.features import ImageView
    from fewshot_bench.images.loader import ImageSource
    from fewshot_bench.profiling.meter import Meter

BATCH = 1024
"""Images per call of a classifier: some encode their prompts again in each call."""
_ARGUMENTS = {"top": whole(1), "batch": whole(1)}
# Image views and work accounting are global to the process.
_ASKING = threading.Lock()
# Files of the functions that `dataclass` makes, the last for `__repr__` from Python 3.13 on.
_MADE = ("<string>", dataclasses.__file__, reprlib.__file__)


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, most probable first, or in `problem` why there are none.

    rejected: the highest probability is below the model's rejection threshold.
    """

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    rejected: bool = False
    problem: str = ""

    def row(self, count: int) -> dict[str, Any]:
        """The prediction by the names of `columns`; None where there is none."""
        pairs = itertools.chain(*zip(self.classes, self.probabilities, strict=True))
        named = itertools.zip_longest(columns(count)[:-2], (self.image, *pairs))
        return dict(named) | {
            "rejected": None if self.problem else self.rejected,
            "error": self.problem or None,
        }


def columns(count: int) -> list[str]:
    """Column names of predictions with `count` classes; two are always there."""
    more = ((f"class_{rank}", f"probability_{rank}") for rank in range(3, count + 1))
    names = itertools.chain(("class", "probability", "runner_up", "runner_up_probability"), *more)
    return ["image", *names, "rejected", "error"]


@dataclass(frozen=True)
class Neighbor:
    """A kept training image: class, cosine similarity to the given image, and its number."""

    classname: str
    similarity: float
    number: int


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A kept fitted method, ready to classify; thread-safe.

    config: everything that was kept except the tensors. backbone, method, classifier: as loaded;
    method has the hyper-parameters of the fit.

    >>> load_model("model").predict(["photo.jpg"])
    """

    path: Path
    config: ModelConfig
    backbone: LoadedBackbone
    method: Any
    classifier: Classifier
    _features: FeatureCache = field(compare=False)

    @property
    def classnames(self) -> tuple[str, ...]:
        """The classes, by column of the logits."""
        return self.config.classnames

    def predict(self, images: Any, *, top: int = 1, batch: int = BATCH) -> pd.DataFrame:
        """A row for each image, with its class.

        Columns: image, class, probability, runner_up, runner_up_probability, rejected, error.
        images: paths of files or folders (all images below), PIL images, numpy arrays (h, w, 3) of
        uint8, torch tensors (3, h, w) of uint8 or of floats from 0 to 1, or iterables of them, also
        mixed. top: 3 adds class_3 and probability_3, and so on. rejected: the probability is below
        the model's rejection threshold. error: why an image has no class, else None. batch: images
        in memory at once. WrongTypeError for what is no image and holds none.
        """
        predictions = list(self.stream(images, top=top, batch=batch))
        count = min(top, len(self.classnames))
        table = frame_rows([each.row(count) for each in predictions], columns(count))
        return table.astype({"rejected": "boolean"})

    def logits(self, images: Any, *, batch: int = BATCH) -> Tensor:
        """(n, classes) float32 on the CPU; DataMissingError for an unusable image.

        images: as in `predict`.
        """
        return self.measured_logits(images, None, batch=batch)

    def measured_logits(self, images: Any, meter: Meter | None, *, batch: int = BATCH) -> Tensor:
        """As `logits`; the work is billed to `meter` if given."""
        import torch

        checked(_ARGUMENTS, {"batch": batch})
        chunks = []
        ask = partial(self._ask_logits, meter=meter)
        for names, logits, problems in self._answers(images, batch, ask):
            _refuse(names, problems)
            chunks.append(logits)
        return torch.cat(chunks) if chunks else torch.empty(0, len(self.classnames))

    def probabilities(self, images: Any, *, batch: int = BATCH) -> Tensor:
        """(n, classes) float64: the softmax of logits over the model's temperature."""
        return self._softmax(self.logits(images, batch=batch))

    @cached_property
    def support(self) -> Support | None:
        """Training images kept with the model, if any; StoreError if their file is damaged."""
        return read_support(self.path, self.config, self.backbone.embed_dim)

    def nearest(self, images: Any, *, count: int = 3) -> list[list[Neighbor]]:
        """The nearest kept training images for each image, most similar first.

        images: as in `predict`. Compares features of the frozen backbone, whatever the method made
        of them. UsageError for a model without training images.
        """
        import torch

        checked({"count": whole(1)}, {"count": count})
        if self.support is None:
            raise UsageError(f"{self.path} holds no training images (fsbench adapt --keep-support)")
        support, neighbors = torch.from_numpy(self.support.features), []
        names_of = [self.classnames[int(label)] for label in self.support.labels]
        for names, features, problems in self._answers(images, BATCH, self._features_of):
            _refuse(names, problems)
            best = (features @ support.T).topk(min(count, len(support)))
            for line in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                pairs = zip(*line, strict=True)
                neighbors.append([Neighbor(names_of[i], value, i) for value, i in pairs])
        return neighbors

    def stream(self, images: Any, *, top: int = 1, batch: int = BATCH) -> Iterator[Prediction]:
        """Yield predictions in order; an unusable image has a `problem`.

        images: as in `predict`, consumed lazily: only a few batches are held at once.
        """
        checked(_ARGUMENTS, {"top": top, "batch": batch})
        count, least = min(max(2, top), len(self.classnames)), self.config.reject
        for names, logits, problems in self._answers(images, batch, self._ask_logits):
            best = self._softmax(logits).topk(count)
            ranked = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            for index, name in enumerate(names):
                if index in problems:
                    yield Prediction(name, problem=problems[index])
                else:
                    values, columns = next(ranked)
                    classes = tuple(self.classnames[column] for column in columns)
                    rejected = least is not None and values[0] < least
                    yield Prediction(name, classes, tuple(values), rejected)

    def _softmax(self, logits: Tensor) -> Tensor:
        # Subtract the maximum first, so that a small temperature causes no overflow.
        values = logits.double()
        return ((values - values.amax(1, keepdim=True)) / self.config.temperature).softmax(1)

    def _answers(
        self, images: Any, batch: int, ask: Callable[[ImageSource], Tensor]
    ) -> Iterator[tuple[list[str], Tensor, dict[int, str]]]:
        """Per batch: image names, result of `ask` for usable images, problems by index."""
        from fewshot_bench.images.user_images import name_of, prepare_images
        from fewshot_bench.utils.prefetch import Ahead

        rotate, waiting, start = self.config.exif == "rotate", _each(images), 0
        chunks = iter(lambda: list(itertools.islice(waiting, batch)), [])

        def load(chunk: list[Any]) -> tuple[list[Any], ImageSource, dict[int, str]]:
            return chunk, *prepare_images(chunk, self.backbone, rotate)

        loading = Ahead((partial(load, chunk) for chunk in chunks), 1)
        try:
            for chunk, source, problems in loading:
                names = [name_of(image, start + index) for index, image in enumerate(chunk)]
                start += len(chunk)
                yield names, ask(source), problems
        finally:
            loading.close()

    def _ask_logits(self, source: ImageSource, meter: Meter | None = None) -> Tensor:
        """(n, classes) float32 logits on the CPU; StoreError if the kept tensors do not fit."""
        import torch

        if not len(source):
            return torch.empty(0, len(self.classnames))
        with self._view(source, meter) as (view, meter):
            # Copy the classifier, so that state left by one call does not affect the next one.
            ask = copy.copy(self.classifier).logits
            with _translate_errors(self.path, self.config), meter.phase("predict"):
                logits = ask(view).detach().to("cpu", torch.float32)
        shape = (len(view), len(self.classnames))
        if tuple(logits.shape) != shape:
            raise _misfit(self.path, self.config, f"logits {tuple(logits.shape)}, expected {shape}")
        if not bool(logits.isfinite().all()):
            raise _misfit(self.path, self.config, "logits that are not finite numbers")
        return logits[: len(source)]

    def _features_of(self, source: ImageSource) -> Tensor:
        """(n, width) float32 features of unit length on the CPU."""
        import torch

        if not len(source):
            return torch.empty(0, self.backbone.embed_dim)
        with self._view(source) as (view, _):
            return view.features[: len(source)].to("cpu", torch.float32)

    @contextmanager
    def _view(
        self, source: ImageSource, meter: Meter | None = None
    ) -> Iterator[tuple[ImageView, Meter]]:
        """The images as a method sees them in a run, padded, and the meter of the work."""
        from fewshot_bench.images.features import image_view, pad_order

        fit = self.config.data
        seed = fit.get("seed", 0)
        # Views and random streams of a query are those of the record.
        seeds = seed_of_fit(seed, str(fit.get("dataset", ":")), fit.get("shots", "all"))
        with _ASKING, _as_in_runs(self._features, self.backbone, meter) as used:
            yield (
                image_view(
                    source,
                    self._features,
                    used,
                    phase="encode_queries",
                    order=pad_order(len(source)),
                    seed=seed,
                    streams=derive(seeds, "queries"),
                ),
                used,
            )

    def __repr__(self) -> str:
        count = len(self.classnames)
        return (
            f"Model('{self.path}': {self.config.method} on {self.config.backbone}, "
            f"{count} class{'es' if count != 1 else ''})"
        )


def load_model(
    path: str | PathLike[str], *, device: str = "auto", method: type | str | None = None
) -> Model:
    """A model in a folder or on a hub; StoreError or UsageError, in one line, if it is unusable.

    path: a folder, or `hub:USER/NAME@revision`; a warning names the commit if the name does not.
    device: `auto`, or such as `cpu`, `cuda:1`, `xpu`, `mps`. method: the class of a method that no
    plug-in registers, or `path/to/file.py:Class`. DataMissingError if the backbone is not there.
    Warns if the code of the method is not, or not known to be, that of the fit.

    >>> load_model("hub:user/name@1f3c0de").predict(["photo.jpg"])
    """
    return open_model(path, device, method, partial(warnings.warn, stacklevel=4))


def open_model(
    name: str | PathLike[str],
    device: str,
    method: type | str | None,
    warn: Callable[[str], None],
    *,
    precision: str = "",
) -> Model:
    """As `load_model`; `warn` gets warnings. precision: overrides that of the fit."""
    checked({"device": text("auto, cpu or a card such as cuda:1")}, {"device": device})
    path = model_folder(name, warn)
    config, tensors = read_model(path)
    config = msgspec.structs.replace(config, precision=precision or config.precision)
    fitted = _build_method(path, config, method, warn)
    if device == AUTO:
        device = devices.accelerator_kind() or devices.CPU
    check_device(device, here=True)
    backbone = _backbone(path, config, device)
    config = msgspec.structs.replace(config, backbone=backbone.name)
    from fewshot_bench.images.feature_cache import FeatureCache

    features = FeatureCache(None)
    with _ASKING, _as_in_runs(features, backbone), _translate_errors(path, config):
        kind = class_named(config.classifier, fitted)
        classifier = restore(fitted, tensors, config.vocabulary, backbone, kind)
    return Model(path, config, backbone, fitted, classifier, features)


def _build_method(
    path: Path, config: ModelConfig, given: type | str | None, warn: Callable[[str], None]
) -> Any:
    """The method with the hyper-parameters of the fit; UsageError if it is another version.

    given: the class of a method that no plug-in registers, or its reference; UsageError if it is
    none, or another.
    warn: called if the code is not, or not known to be, that of the fit.
    """
    cls = _find_class(path, config) if given is None else _check_class(path, config, given)
    version = str(getattr(cls, "version", "1"))
    if version != stated_in(config.method_version):
        raise UsageError(
            f"{path} was fitted by {config.method} version {config.method_version}, installed is "
            f"{version}; install {config.method_origin or 'the package of then'}, or fit again"
        )
    if reason := reason_not_to_keep(cls):
        raise UsageError(f"{path}: a model of {config.method} cannot be used: {reason}")
    if config.method_code and not _is_code_of_fit(path, config, cls):
        warn(
            f"{path}: the code of {config.method} is not that of the fit "
            f"({config.method_origin or 'unknown'}); its answers may differ"
        )
    return _configure(path, config, cls)


def _find_class(path: Path, config: ModelConfig) -> type:
    plugins, name = registry(), config.method
    if name in plugins.methods.entries:
        return plugins.method_class(name)
    if digest_in(config.method_version):
        kept = _kept_code(path, config)
        where = (
            f"its code is there: read it, then add method={kept.reference!r} (--method of commands)"
            if kept
            else f"pass its class: method={config.method_origin.rpartition(':')[2]}"
        )
        raise UsageError(
            f"{path}: its method {name} is that of {config.method_origin}, which no plug-in "
            f"registers, and code beside a model runs only if it is named; {where}"
        )
    error = plugins.methods.unknown(name, plugins.methods.entries, "fsbench list methods")
    raise UsageError(f"{path}: {error}; install its plug-in, or load_model(..., method=Class)")


def _kept_code(path: Path, config: ModelConfig) -> OwnMethod | None:
    """The code of the fit, beside the model or in the store that holds it."""
    places = (path, *path.resolve().parents[1:2])
    found = (find_method(place, config.method, config.method_version) for place in places)
    return next(filter(None, found), None)


def _check_class(path: Path, config: ModelConfig, given: type | str) -> type:
    """The class that was handed over or named; UsageError if it has not the name of the method."""
    if isinstance(given, str):
        given = registry().method_class(registry().own_method(given).name)
    if not isinstance(given, type) or not callable(getattr(given, "fit", None)):
        raise WrongTypeError(
            f"method={given!r:.80}: expected the class of a method, or {EXAMPLE!r}"
        )
    if name_of(given) != config.method:
        raise UsageError(
            f"{path} was fitted by {config.method}, method={given.__name__} is another class "
            f"('{name_of(given)}'); pass {config.method_origin or config.method}"
        )
    return given


def _is_code_of_fit(path: Path, config: ModelConfig, cls: type) -> bool:
    """True if the source of a class is that of the fit.

    The digest of a class of a session says nothing of what its script is now, so the functions of
    the class are looked up in the code that the store has.
    """
    if str(registry().code(config.method, cls)["digest"]) == config.method_code:
        return True
    kept = _kept_code(path, config)
    if kept is None:
        return False
    try:
        written = Path(kept.reference.rpartition(":")[0]).read_text(encoding="utf-8")
        return all(source in written for source in _sources(cls))
    except (OSError, ValueError, TypeError):
        return False


def _sources(cls: type) -> Iterator[str]:
    """The source of each function of a class; OSError or TypeError if one has none."""
    for member in vars(cls).values():
        inner = (getattr(member, name, None) for name in ("fget", "func", "__func__"))
        function = next(filter(None, inner), member)
        # What `dataclass` makes is no source of the author.
        if inspect.isfunction(function) and function.__code__.co_filename not in _MADE:
            yield inspect.getsource(function).rstrip()


def _configure(path: Path, config: ModelConfig, cls: type) -> Any:
    parameters = {parameter.name: parameter for parameter in hyperparameters(cls)}
    differing = sorted(set(parameters) ^ set(config.options))
    if differing:
        raise StoreError(
            f"{path} and the installed {config.method} have other hyper-parameters "
            f"({', '.join(differing)}); fit again"
        )
    try:
        look_in(path)
        options = {
            name: convert_value(config.method, parameters[name], value)
            for name, value in open_files(config.options).items()
        }
        with plugin_code():
            return cls(**options)
    except (Exception, SystemExit) as error:
        raise StoreError(f"{path}: {_error_line(error)}") from error


def _error_line(error: BaseException) -> str:
    """An error in one line; errors of libraries and plug-ins with their type, cut short."""
    words = " ".join(str(error).split())
    return words if isinstance(error, FsbenchError) else f"{type(error).__name__}: {words:.160}"


def _backbone(path: Path, config: ModelConfig, device: str) -> LoadedBackbone:
    """The backbone of the fit; StoreError if its weights, image size or settings differ."""
    from fewshot_bench.backbones import loading

    if config.precision not in PRECISIONS or config.exif not in EXIF:
        raise StoreError(
            f"{path}: precision '{config.precision}', exif '{config.exif}': expected one of "
            f"{', '.join(PRECISIONS)}, and one of {', '.join(EXIF)}"
        )
    name, hint = config.backbone, ""
    file = loading.file_of(name)
    if file is not None and not file.exists():
        # The path of the machine that kept the model; the digest below shows if it is the same one.
        beside = path.absolute().parent / file.name
        hint = f", or put it beside the model's folder ({beside})"
        name = loading.with_file(name, beside) if beside.exists() else name
    try:
        backbone = loading.load(name, device, config.precision)
    except FsbenchError as error:
        raise type(error)(f"{path}: {error}{hint}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: backbone '{config.backbone}': {_error_line(error)}") from error
    if backbone.weights_digest != config.weights_digest:
        raise StoreError(
            f"{path} was fitted on other weights of {config.backbone} "
            f"({config.weights_digest[:12]}, here are {backbone.weights_digest[:12]}); "
            "find those of then, or fit again"
        )
    if tuple(backbone.image_size) != config.image_size:
        raise StoreError(
            f"{path} was fitted on images of {config.image_size}, {config.backbone} takes "
            f"{tuple(backbone.image_size)}; fit again"
        )
    here = getattr(backbone, "settings", "")
    if config.settings and here and config.settings != here:
        raise StoreError(
            f"{path} was fitted with other settings of {config.backbone} (activation, "
            "preprocessing or tokenizer): put its config back, or fit again"
        )
    return backbone


@contextmanager
def _as_in_runs(
    features: FeatureCache, backbone: LoadedBackbone, meter: Meter | None = None
) -> Iterator[Meter]:
    """Set the state of torch and of the harness as in runs; yield the meter of the work.

    For one thread at a time.
    """
    import torch

    from fewshot_bench.images.features import accounted
    from fewshot_bench.profiling.meter import Meter

    cudnn = torch.backends.cudnn
    kernels = cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    meter = meter or Meter(backbone.device)
    with torch.no_grad(), kernels, accounted(features, meter):
        yield meter


@contextmanager
def _translate_errors(path: Path, config: ModelConfig) -> Iterator[None]:
    """Run code of a method; tensors that do not fit it cause a one-line StoreError."""
    import torch

    try:
        with plugin_code():
            yield
    except (UsageError, DataMissingError, NotApplicableError, torch.OutOfMemoryError):
        raise
    except ContractError as error:
        raise _misfit(path, config, str(error)) from error
    except (Exception, SystemExit) as error:
        raise _misfit(path, config, _error_line(error)) from error


def _misfit(path: Path, config: ModelConfig, why: str) -> StoreError:
    return StoreError(
        f"{path}: its tensors are not those of {config.method} for {len(config.classnames)} "
        f"classes on {config.backbone} ({why:.200}); fit again"
    )


def _each(images: Any, within: bool = False) -> Iterator[Any]:
    """The given images one by one, also those of folders and of what holds images.

    within: what is given is held by something else, so that it may be no image.
    """
    if isinstance(images, str | PathLike):
        below = iter(pictures_below(images) if os.path.isdir(images) else ())
        # Without an image, the folder itself is what cannot be used.
        yield next(below, images)
        yield from below
    elif hasattr(images, "getexif") or len(getattr(images, "shape", (1,))) in (0, 2, 3):
        yield images
    elif isinstance(images, Iterable) and not (
        isinstance(images, bytes | bytearray | Mapping) or hasattr(images, "read")
    ):
        for image in images:
            yield from _each(image, True)
    elif within:
        yield images
    else:
        raise WrongTypeError(f"images={images!r:.80}: expected images, folders, or a list of them")


def _refuse(names: Sequence[str], problems: Mapping[int, str]) -> None:
    """Raise DataMissingError for the first unusable image."""
    for index, problem in problems.items():
        raise DataMissingError(f"{names[index]} {problem}; leave it out, or mend it")
