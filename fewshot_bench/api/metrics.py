"""Metrics of predictions: definition, computation, rounding and direction of each in one `Metric`.

`METRICS` holds the built-in metrics, which `rounded` computes for a record in float64; plug-ins
register others (`Registry.metric`), computed from stored logits. Predictions are the class with the
highest logit (the lowest index among equal logits), probabilities the softmax without temperature.
"""
# numpy is imported inside functions, so that metric names and titles are available without it.

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

import functools
import inspect
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.plugin_code import plugin_code
from fewshot_bench.utils.text import fixed, plain_text

if TYPE_CHECKING:
    import numpy as np

PERCENT, NATS, PLAIN = "%", "nats", ""
# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 5.
BINS = 15
# Decimal places of a metric in a record.
RECORDED = 6
# How far probabilities in 16 bits may be from adding up to one.
_SUM = 0.01
# Values per block of rows, which keeps the memory for ImageNet below a gigabyte.
_PART = 2**20
# Most decimal places in tables.
_DIGITS = 9
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class PerClass:
    """Float64 arrays (classes,); NaN for classes without images, which means must exclude.

    images: number of images per class. accuracy: recall, the share of a class's images predicted
    as this class, in percent. precision: the share of correct images among those predicted as the
    class, in percent; NaN if there are none. f1: 2 TP / (2 TP + FP + FN), in percent.
    """

    images: np.ndarray
    accuracy: np.ndarray
    precision: np.ndarray
    f1: np.ndarray


@dataclass(frozen=True)
class Answers:
    """A method's predictions for the queries of one cell; arrays (n,), in the order of the queries.

    A metric's functions receive these attributes through parameters of the same names.
    labels, predictions: class indices below `classes`. ranks: rank of the label among the classes,
    1 if it is predicted; among equal logits, lower indices come first. confidences: the highest
    probability. surprises: -ln p(label), in nats. brier_scores: the sum over classes of
    (p - [class is label])^2. whole: returns the (n, classes) logits; StoreError if they were not
    kept. groups: int32, the number of a query's batch or its position in the stream; None if each
    was answered alone.
    """

    labels: np.ndarray
    classes: int
    predictions: np.ndarray
    ranks: np.ndarray
    confidences: np.ndarray
    surprises: np.ndarray
    brier_scores: np.ndarray
    whole: Callable[[], np.ndarray]
    groups: np.ndarray | None = None

    @classmethod
    def of(
        cls, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
    ) -> Answers:
        """Answers from (n, classes) finite logits, (n,) labels and (n,) groups, if any."""
        import numpy as np

        confidence, nll, brier = np.empty((3, len(logits)))
        ranks = np.empty(len(logits), dtype=np.int64)
        columns = np.arange(logits.shape[1])
        for part, shifted in _shift(logits):
            label = labels[part, np.newaxis]
            given = np.take_along_axis(logits[part], label, axis=1)
            before = (logits[part] > given) | ((logits[part] == given) & (columns < label))
            ranks[part] = 1 + np.count_nonzero(before, axis=1)
            own = np.take_along_axis(shifted, label, axis=1)[:, 0]
            powers = np.exp(shifted, out=shifted)
            total = powers.sum(axis=1)
            confidence[part] = 1 / total
            nll[part] = np.log(total) - own
            squares = np.einsum("ij,ij->i", powers, powers) / total**2
            brier[part] = squares - 2 * np.exp(own) / total + 1
        chosen = logits.argmax(axis=1)
        classes = int(logits.shape[1])
        statistics = confidence, nll, brier
        return cls(labels, classes, chosen, ranks, *statistics, lambda: logits, groups)

    @property
    def logits(self) -> np.ndarray:
        """The (n, classes) logits; StoreError if they were not kept."""
        return self.whole()

    @cached_property
    def hits(self) -> np.ndarray:
        """(n,) bool: True for correctly predicted images."""
        right: np.ndarray = self.predictions == self.labels
        return right

    @cached_property
    def per_class(self) -> PerClass:
        """Accuracy, precision and F1 of every class."""
        return per_class(self.predictions, self.labels, self.classes)

    @property
    def is_stream(self) -> bool:
        """True if the queries came one after the other."""
        return self.groups is not None and len({*self.groups.tolist()}) == len(self.groups)

    @cached_property
    def arrivals(self) -> np.ndarray:
        """(n,) the places of the queries in the order of their stream; without one, as they are."""
        import numpy as np

        places = np.arange(len(self.labels))
        return places if self.groups is None or not self.is_stream else np.argsort(self.groups)


def are_probabilities(logits: np.ndarray) -> bool:
    """True if all rows of (n, classes) numbers add up to one and none is negative.

    Scores of a single row or class may do so by chance.
    """
    if min(logits.shape) < 2 or not logits.min() >= 0:
        return False
    return bool((abs(logits.sum(axis=1) - 1) <= _SUM).all())


GIVEN = (
    *("logits", "labels", "classes", "predictions", "hits", "per_class"),
    *("ranks", "confidences", "surprises", "brier_scores", "arrivals"),
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number per cell: its names, computation, rounding and direction.

    name: in options, records and CSV; lower-case letters, digits and `_`. title: in captions.
    compute: returns the value. Its parameters are named like attributes of `Answers`: for example
    `ranks` (n,) or `logits` (n, classes). short: header of a narrow column. digits: decimal places
    in tables. scores: for a value that is a mean over images, returns one number per image (n,)
    whose mean is the value (for a metric in percent, a hundredth of it); used to test differences.
    source, origin: for a plug-in's metric, the digest of its code and the plug-in that registered
    it (both set by the registry).

    >>> Metric("error", "error rate", lambda logits, labels: 100.0, higher_is_better=False)
    """

    name: str
    title: str
    compute: Callable[..., Any]
    short: str = ""
    unit: str = PERCENT
    digits: int = 2
    higher_is_better: bool = True
    scores: Callable[..., Any] | None = None
    source: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ContractError(
                f"metric {self.name!r}: expected a name of lower-case letters, digits and _"
            )
        for field in ("title", "short", "unit"):
            text = getattr(self, field)
            if not isinstance(text, str) or not plain_text(text):
                self._refuse(field, "expected text without control characters")
        if not self.title.strip():
            self._refuse("title", "expected the words of captions, such as 'top-1 accuracy'")
        if type(self.digits) is not int or not 0 <= self.digits <= _DIGITS:
            self._refuse("digits", f"expected a whole number from 0 to {_DIGITS}")
        self._check_function("compute")
        if self.scores is not None:
            self._check_function("scores")
        if not self.short:
            object.__setattr__(self, "short", self.name.replace("_", " "))

    def _check_function(self, field: str) -> None:
        """ContractError unless all parameters of a function are attributes of `Answers`."""
        function = getattr(self, field)
        try:
            asked = needs(function)
        except (TypeError, ValueError):
            self._refuse(field, "expected a function whose parameters can be read")
        odd = sorted(asked - set(GIVEN))
        if odd or not asked:
            what = f"asks for '{odd[0]}'" if odd else f"has {field} without parameters"
            raise ContractError(
                f"metric '{self.name}' {what}: expected parameters among {', '.join(GIVEN)}"
            )

    def _refuse(self, field: str, expected: str) -> NoReturn:
        shown = f"{getattr(self, field)!r:.80}"
        raise ContractError(f"metric '{self.name}': {field} is {shown}, {expected}")

    @property
    def registered(self) -> str:
        """Suffix of error messages: the plug-in that registered the metric."""
        return f" ({self.origin})" if self.origin else ""

    @property
    def quantity(self) -> str:
        """The caption of a table: `top-1 accuracy in %`, `Brier score, lower is better`."""
        unit = f" in {self.unit}" if self.unit else ""
        return f"{self.title}{unit}{'' if self.higher_is_better else ', lower is better'}"

    @property
    def points(self) -> str:
        """The unit of differences and deviations: `points of top-1 accuracy`."""
        unit = {PERCENT: "points of ", PLAIN: ""}.get(self.unit, f"{self.unit} of ")
        return f"{unit}{self.title}"

    @property
    def difference(self) -> str:
        """The caption of a table of differences: `points`, and the better sign if negative."""
        return f"{self.points}{'' if self.higher_is_better else ', negative is better'}"

    @property
    def scale(self) -> float:
        """The factor from the mean of the scores to the value."""
        return 100.0 if self.unit == PERCENT else 1.0

    def text(self, value: float) -> str:
        """A value formatted for tables; zero has no sign."""
        return fixed(value, self.digits)

    def value(self, answers: Answers) -> float:
        """The metric of a cell, not rounded; ContractError unless it is one finite number."""
        value = self._call(self.compute, answers)
        # A zero-dimensional array counts as a number.
        number = value.item() if getattr(value, "shape", None) == () else value
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise ContractError(
                f"metric '{self.name}' gave {' '.join(repr(value).split()):.80} for logits of "
                f"shape {(len(answers.labels), answers.classes)}: expected one finite number"
                f"{self.registered}"
            )
        return float(number)

    def by_image(self, answers: Any) -> np.ndarray:
        """(n,) the scores; ContractError for another shape or a number that is not finite.

        answers: any object with `labels` and the attributes that `scores` needs.
        """
        import numpy as np

        assert self.scores is not None, f"metric '{self.name}' has no scores"
        scores = np.asarray(self._call(self.scores, answers))
        count = len(answers.labels)
        if scores.shape != (count,) or scores.dtype.kind not in "biuf":
            raise ContractError(
                f"scores of metric '{self.name}' have shape {scores.shape} and type "
                f"{scores.dtype}: expected one number per image, ({count},){self.registered}"
            )
        is_float, scores = scores.dtype.kind == "f", scores.astype(np.float64)
        if is_float and not np.isfinite(scores).all():
            raise ContractError(
                f"scores of metric '{self.name}' are not finite for "
                f"{int((~np.isfinite(scores)).sum())} of {count} images: expected a number for each"
                f"{self.registered}"
            )
        return scores

    def _call(self, function: Callable[..., Any], answers: Any) -> Any:
        given = {name: _read_only(getattr(answers, name)) for name in needs(function)}
        if not self.source:
            return function(**given)
        try:
            with plugin_code():
                return function(**given)
        except (Exception, SystemExit) as error:
            raise ContractError(
                f"metric '{self.name}' failed: {error_text(error, function)}{self.registered}"
            ) from error


def _read_only(value: Any) -> Any:
    """A read-only view, since other metrics are computed from the same arrays."""
    if isinstance(value, PerClass):
        return PerClass(*(_read_only(getattr(value, part.name)) for part in fields(value)))
    if not hasattr(value, "setflags"):
        return value
    view = value.view()
    view.setflags(write=False)
    return view


def needs(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's parameters without defaults."""
    # Comparisons of many methods ask this of few functions very often.
    return _needs(function) if isinstance(function, Hashable) else _needs.__wrapped__(function)


@functools.lru_cache(maxsize=256)
def _needs(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(p.name for p in parameters if p.default is p.empty and p.kind not in variable)


def measured(answers: Answers, metrics: Iterable[Metric] | None = None) -> dict[str, float | int]:
    """The metrics (default: the built-in ones) of a cell's answers, not rounded, and `n`.

    Of a stream, the built-in ones are those of its ends, too. ValueError if there are no images.
    """
    if not len(answers.labels):
        raise ValueError("no images: metrics need at least one")
    built_in = BUILT_IN if answers.is_stream else METRICS
    chosen = built_in.values() if metrics is None else metrics
    return {metric.name: metric.value(answers) for metric in chosen} | {"n": len(answers.labels)}


def rounded(answers: Answers, metrics: Iterable[Metric] | None = None) -> dict[str, float | int]:
    """`measured`, rounded to the six decimal places of records."""
    values = measured(answers, metrics)
    return {name: round(value, RECORDED) for name, value in values.items()}


def per_class(predictions: np.ndarray, labels: np.ndarray, classes: int) -> PerClass:
    """Accuracy, precision and F1 of every class. predictions and labels: (n,) class indices."""
    import numpy as np

    images = np.bincount(labels, minlength=classes).astype(np.float64)
    # Of a class without images, nothing is a number.
    whole = np.where(images > 0, images, np.nan)
    counts = np.bincount(predictions, minlength=classes)
    right = 100.0 * np.bincount(labels[predictions == labels], minlength=classes)
    precision = right / np.where((images > 0) & (counts > 0), counts, np.nan)
    return PerClass(images, right / whole, precision, 2 * right / (whole + counts))


def calibration_error(confidences: np.ndarray, hits: np.ndarray) -> float:
    """Expected calibration error in percent (Guo et al., ICML 2017, equation 3).

    Images are binned by confidence, their highest probability, as by `equal_width`. The error
    is the mean over bins of |accuracy - mean confidence|, weighted by the number of images; empty
    bins have no weight.
    confidences: (n,) in (0, 1]. hits: (n,) True for correct predictions.
    """
    import numpy as np

    gaps = np.bincount(equal_width(confidences), weights=hits - confidences, minlength=BINS)
    return 100 * float(np.abs(gaps).sum()) / len(hits)


def equal_width(confidences: np.ndarray) -> np.ndarray:
    """(n,) bin index per image: (0, 1/15], ... (14/15, 1], each closed on the right."""
    import numpy as np

    places: np.ndarray = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return places


def reliability(confidences: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """(3, bins) float64: images, right answers and sum of confidence in each bin of equal width."""
    import numpy as np

    places = equal_width(confidences)
    parts = np.ones(len(places)), hits, confidences
    return np.stack([np.bincount(places, part, BINS) for part in parts])


def adaptive_calibration_error(confidences: np.ndarray, hits: np.ndarray) -> float:
    """Expected calibration error over bins of equal mass, in percent.

    Images are sorted by confidence and cut into 15 runs of equal length, the first `n % 15` one
    longer (the adaptive bins of Nixon et al., "Measuring Calibration in Deep Learning", CVPR
    Workshops 2019, for the predicted class alone, as in Mukhoti et al., NeurIPS 2020). Images of
    equal confidence all count with their mean accuracy, so that their order does not matter.
    """
    import numpy as np

    order = np.argsort(confidences, kind="stable")
    ordered = confidences[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(first)
    counts = np.diff([*starts, len(ordered)])
    right = np.repeat(np.add.reduceat(hits[order].astype(np.float64), starts) / counts, counts)
    gaps = [abs(float(part.sum())) for part in np.array_split(right - ordered, BINS)]
    return 100 * sum(gaps) / len(hits)


def _mean_over_classes(values: np.ndarray) -> float:
    """Mean over the classes that have images."""
    import numpy as np

    return float(np.nanmean(values))


def _by_class_size(hits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(n,) hits, weighted so that all classes with images count equally."""
    import numpy as np

    right = hits.astype(float)
    counts = np.bincount(labels, minlength=classes)
    weighted: np.ndarray = right * len(right) / (np.count_nonzero(counts) * counts[labels])
    return weighted


def _quarter_accuracy(end: str, hits: np.ndarray, arrivals: np.ndarray) -> float:
    size = max(1, len(hits) // 4)
    return 100 * float(hits[arrivals[:size] if end == "first" else arrivals[-size:]].mean())


def _shift(logits: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows in float64 minus each row's highest logit, for a stable softmax."""
    import numpy as np

    step = max(1, _PART // logits.shape[1])
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        shifted = logits[part].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        yield part, shifted


_ALL = (
    Metric(
        "top1",
        "top-1 accuracy",
        lambda hits: 100 * float(hits.mean()),
        "top-1",
        scores=lambda hits: hits,
    ),
    # Mean of the class accuracies, over the classes with images.
    Metric(
        "macro_accuracy",
        "macro accuracy",
        lambda per_class: _mean_over_classes(per_class.accuracy),
        "macro acc.",
        scores=_by_class_size,
    ),
    # scikit-learn: f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0).
    Metric("macro_f1", "macro-F1", lambda per_class: _mean_over_classes(per_class.f1), "macro-F1"),
    Metric(
        "nll",
        "negative log-likelihood",
        lambda surprises: float(surprises.mean()),
        "NLL",
        NATS,
        4,
        higher_is_better=False,
    ),
    # From 0 to 2 (Brier, Monthly Weather Review 1950: not divided by the number of classes).
    Metric(
        "brier",
        "Brier score",
        lambda brier_scores: float(brier_scores.mean()),
        "Brier",
        PLAIN,
        4,
        higher_is_better=False,
    ),
    Metric(
        "ece",
        "expected calibration error",
        calibration_error,
        "ECE",
        higher_is_better=False,
    ),
    Metric(
        "adaptive_ece",
        "adaptive calibration error",
        adaptive_calibration_error,
        "AECE",
        higher_is_better=False,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
# Of streams alone: a method with a memory learns on the way, so its mean depends on their length.
OF_STREAMS: Mapping[str, Metric] = {
    f"{end}_quarter": Metric(
        f"{end}_quarter",
        f"top-1 accuracy of the {end} quarter of the stream",
        partial(_quarter_accuracy, end),
        f"{end} 1/4",
    )
    for end in ("first", "last")
}
BUILT_IN: Mapping[str, Metric] = {**METRICS, **OF_STREAMS}


# Largest gap that is taken for rounding, by precision: encoders round an image otherwise in another
# batch, and in 16 bits every product does.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25, "fp16": 0.05}
# The resolution of float32: below it, the spread of nearly equal logits says nothing.
_RESOLUTION = 1e-6


def gap(logits: np.ndarray, expected: np.ndarray, whole: np.ndarray) -> float:
    """The largest difference of two matrices of one shape, relative to the spread of `whole`.

    whole: all logits, of which `expected` are some rows.
    """
    largest = float(abs(logits - expected).max()) if expected.size else 0.0
    spread = max(float(whole.std()), _RESOLUTION * float(abs(whole).max())) if largest else 1.0
    return largest / spread if spread else math.inf
