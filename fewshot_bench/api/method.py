"""The contracts of a method and its classifier, and the hyper-parameters of a method."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from fewshot_bench.utils.errors import ContractError, UsageError, suggestion, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_bench.api.backbone import Backbone
    from fewshot_bench.api.task import Images, Task, Vocabulary


class Step(Protocol):
    """A training step on batches: forward pass, backward pass and optimizer, as one object."""

    def __call__(self, *batch: Tensor, rate: float | None = None) -> None:
        """Take one step on the tensors of a batch; does not wait for the device.

        rate: the learning rate of all parameter groups; None to leave it.
        """

    def restart(self) -> None:
        """Declare that the next step does other work than the last one (another stage, say)."""


class RunContext(Protocol):
    """Services for a method besides the task: named random streams, notes, progress.

    >>> noise = torch.randn(3, generator=ctx.rng("init"))
    """

    @property
    def device(self) -> torch.device:
        """Device for tensors."""

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`; encoders apply it by themselves."""

    @property
    def cell(self) -> str:
        """The cell's name for files and writers of your own: `clip-lora_digits_4-shot_seed-1`.

        Safe for file systems; cells of a run have different names, but those of one fit share it.
        """

    @property
    def memory_parts(self) -> int:
        """1 at first; 2, 4, ... 64 if `fit` is retried because memory ran out.

        Divide the work into about this many parts (micro-batches, say) to hold less in memory at
        once, and change nothing else. A method that never reads it is not retried.
        """

    def rng(self, name: str) -> torch.Generator:
        """A new CPU generator for the named random stream of this cell (same name, same stream)."""

    def autocast(self) -> typing.ContextManager[None]:
        """Context manager that runs own modules at the run's precision, as encoders run."""

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler; does nothing unless the precision is fp16 on an accelerator."""

    def train_step(
        self,
        loss: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        max_norm: float = 0.0,
        *,
        scaled: bool = True,
    ) -> Step:
        """A step that minimizes `loss`, a function of the tensors of a batch; may be captured.

        max_norm: bound on the total gradient norm (clipping); 0 for none. scaled: False for a loss
        that needs no `scaler`, whatever the precision.

        >>> step = ctx.train_step(lambda x, y: F.cross_entropy(x @ weights.T, y), optimizer)
        >>> step(features, labels, rate=1e-3)
        """

    def train_step_by(
        self,
        backward: Callable[..., None],
        optimizer: torch.optim.Optimizer,
        max_norm: float = 0.0,
        *,
        scaled: bool = True,
    ) -> Step:
        """The same for `backward(*batch, scale)`, which adds the gradients of `scale(loss)`."""

    def progress(self, done: int, total: int) -> None:
        """Report the progress of `fit`; may be called as often as convenient."""

    def log(self, /, step: int | None = None, **values: float | Tensor) -> None:
        """Add values of a step to the curves of the record, as `val_accuracy=0.7`; reads nothing.

        Steps of `train_step` log `loss` and `rate` by themselves. values: numbers, or tensors of
        one element on any device. step: later than the last one of the same names; without it, the
        number of steps that `train_step` has taken. In the loss of `train_step`: tensors, no step.

        >>> ctx.log(epoch, val_accuracy=accuracy)
        """

    def note(self, **values: object) -> None:
        """Store JSON-able facts in the record (chosen C, alpha, beta ...)."""

    def count_selection(self, configurations: int, labels: int) -> None:
        """Declare that `configurations` were compared on `labels` labeled validation images.

        With 0 configurations: that the method learned from these labels and chose nothing.
        """

    def declare_trained(self, parameters: int) -> None:
        """Declare trained parameters of a solver that has no torch optimizer."""


@runtime_checkable
class Classifier(Protocol):
    """A fitted method.

    >>> classifier.logits(queries).argmax(1)  # the class of each query
    """

    def logits(self, queries: Images) -> Tensor:
        """(n, classes) finite scores, one row per query, independent of the rest of the batch.

        Scores of which the softmax is still to be taken, or logarithms of probabilities. A method
        whose card says `sees="batch"` may use all of `queries`, and nothing of earlier calls.
        """

    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors that prediction needs besides the backbone."""


class Stream(Protocol):
    """Answers to queries that come one after the other; what it remembers of them is its own.

    >>> first, second = stream.answer(first_queries), stream.answer(second_queries)
    """

    def answer(self, queries: Images) -> Tensor:
        """(n, classes) scores of the next queries, as `Classifier.logits` gives them.

        Row i may depend on the queries up to i and on those of earlier calls alone. How many come
        at once may differ between runs, and changes no row.
        """


@runtime_checkable
class Streaming(Protocol):
    """A classifier of a method with `sees="stream"`: it answers in place of `logits`.

    >>> stream = classifier.start()
    >>> rows = [stream.answer(part) for part in parts]
    """

    def start(self) -> Stream:
        """A stream that has seen no query; the classifier itself stays as it is."""

    def tensors(self) -> Mapping[str, Tensor]:
        """As `Classifier.tensors`."""


@runtime_checkable
class Transferable(Protocol):
    """A classifier that can predict classes that it was not fitted on (base-to-new, transfer).

    A method whose classifiers never can gives the reason in an attribute or property
    `tied_to_classes`; tables then show the reason instead of a number, and nothing is fitted.

    >>> classifier.for_classes(vocabulary).logits(queries)
    """

    def for_classes(self, vocabulary: Vocabulary) -> Classifier:
        """A classifier for other class names and templates that keeps what was learned.

        NotApplicableError with a reason if this classifier cannot be transferred.
        """


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters.

    >>> fitted = method.fit(task, backbone, ctx)
    """

    name: ClassVar[str]

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Classifier:
        """Adapt to `task` and return a classifier; the backbone is left as it was found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One hyper-parameter: `fsbench show` prints it and `-o name=value` is parsed by its type."""

    name: str
    type: Any
    default: Any
    help: str
    unit: str
    source: str

    @property
    def type_name(self) -> str:
        """The type in readable form: `float`, `mean|none`, `int | None`."""
        return _name_type(self.type)


def _name_type(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in _UNIONS:
        return " | ".join("None" if part is type(None) else _name_type(part) for part in parts)
    return getattr(kind, "__name__", str(kind))


def hyper(default: Any, help: str, *, unit: str = "", source: str = "") -> Any:
    """A documented hyper-parameter, used as the default of a dataclass field.

    >>> rank: int = hyper(2, "rank of the updates", source="paper, section 4")
    """
    metadata = {"help": help, "unit": unit, "source": source}
    return dataclasses.field(default=default, metadata=metadata)


def hyperparameters(method: type) -> tuple[Hyperparameter, ...]:
    """The hyper-parameters of a method class, in the order of its fields."""
    if not dataclasses.is_dataclass(method):
        raise ContractError(
            f"method {method.__name__} is not a dataclass: decorate it with @dataclass(frozen=True)"
        )
    hints = typing.get_type_hints(method)
    parameters = []
    for field in dataclasses.fields(method):
        default = field.default
        # In a class that was pickled, the other MISSING of a field with a default is a copy.
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        about = (str(field.metadata.get(name, "")) for name in ("help", "unit", "source"))
        parameters.append(Hyperparameter(field.name, hints[field.name], default, *about))
    return tuple(parameters)


_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_UNIONS = (typing.Union, types.UnionType)


def read_value(owner: str, parameter: Hyperparameter, value: Any) -> Any:
    """A value of the parameter's type: text is parsed, other values are checked."""
    if isinstance(value, str):
        return parse_value(owner, parameter, value)
    return convert_value(owner, parameter, value)


def parse_value(owner: str, parameter: Hyperparameter, text: str) -> Any:
    """Read `text` as a value of the parameter's type; UsageError names the type and the default."""
    try:
        return _read(parameter.type, text.strip(), parse=True)
    except ValueError:
        raise _refusal(owner, parameter, text) from None


def convert_value(owner: str, parameter: Hyperparameter, value: Any) -> Any:
    """A Python value converted as by `parse_value`: for a float parameter, 1 becomes 1.0.

    UsageError for a value of another type.
    """
    # Scalars of NumPy and torch become Python numbers.
    plain = value.item() if callable(getattr(value, "item", None)) else value
    try:
        return _read(parameter.type, plain, parse=False)
    except ValueError:
        raise _refusal(owner, parameter, value) from None


def _refusal(owner: str, parameter: Hyperparameter, value: Any) -> UsageError:
    choices = [
        str(choice)
        for kind in (parameter.type, *typing.get_args(parameter.type))
        if typing.get_origin(kind) is Literal
        for choice in typing.get_args(kind)
    ]
    hint = suggestion(str(value), choices) if choices else ""
    return UsageError(
        f"{owner}: {parameter.name}={value!r:.80} is not {parameter.type_name}{hint} "
        f"(default {parameter.default!r}; fsbench show {shlex.quote(owner)})"
    )


def _read(kind: Any, value: Any, *, parse: bool) -> Any:
    """A value of a type, from its text with `parse`; ValueError for anything else."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        if parse and type(None) in parts and value.casefold() in ("none", ""):
            return None
        for part in parts:
            with contextlib.suppress(ValueError):
                return _read(part, value, parse=parse)
    elif origin is Literal:
        for choice in parts:
            if value == str(choice) if parse else (type(value), value) == (type(choice), choice):
                return choice
    elif kind is float and (parse or type(value) in (int, float)):
        if math.isfinite(number := float(value)):
            return number
    elif kind is bool and parse:
        if value.casefold() in _TRUE | _FALSE:
            return value.casefold() in _TRUE
    elif kind is Path and (isinstance(value, Path) or (type(value) is str and value)):
        return Path(value).expanduser()
    elif kind is int and parse:
        return int(value)
    elif type(value) is kind:
        return value
    raise ValueError(value)


def find_parameter(owner: str, method: type, name: str) -> Hyperparameter:
    """The hyper-parameter `name` of a method; UsageError suggests the closest one."""
    parameters = {parameter.name: parameter for parameter in hyperparameters(method)}
    normal = name.replace("-", "_")
    if normal not in parameters:
        raise unknown(
            f"hyper-parameter of {owner}", name, parameters, f"fsbench show {shlex.quote(owner)}"
        )
    return parameters[normal]


def list_changed_options(method: Any) -> dict[str, Any]:
    """The hyper-parameters of a method instance that differ from the defaults of its class."""
    name, changed = str(getattr(method, "name", type(method).__name__)), {}
    for field in hyperparameters(type(method)):
        value = convert_value(name, field, getattr(method, field.name))
        if value != field.default:
            changed[field.name] = value
    return changed


def find_changed_when_built(method: Any, given: Mapping[str, Any]) -> str:
    """The first hyper-parameter of a method instance that has not its given value; else empty."""
    values = configuration(method)
    return next((name for name in values if values[name] != given[name]), "")


def configuration(method: Any) -> dict[str, Any]:
    """All hyper-parameters of a method instance by name."""
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
