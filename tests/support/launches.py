"""Kernel launches of a training step, counted on CPU tensors in the layout of accelerators.

`count_step` runs a method's fit on a random CLIP with 12 layers and counts the operators of one
step, from `zero_grad` to the end of the optimizer's step, under the autocast of accelerators.

`python -m tests.support.launches coop bf16 100` lists them by source line.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_bench import Task
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.fit import Context
from fewshot_bench.utils.rng import isolate
from tests.reference.toy import CPU, MemoryShots, random_backbone, random_shots
from tests.support.layout import use_accelerator_layout

NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"),
    *("detach", "alias", "lift_fresh", "set_", "_local_scalar_dense"),
}
"""Operators of memory and metadata; views are recognized by their storage."""
ATTENTION_BACKWARD = 3
"""Kernels of the gradient of fused attention: sums of rows, gradients, a cast or copy of them."""
IN_FLOAT32 = {
    *("layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "nll_loss"),
    *("norm", "normalize", "cosine_similarity", "exp", "log", "pow", "__pow__", "rsqrt"),
    *("reciprocal", "sum", "prod", "cumsum", "cumprod", "softplus", "kl_div", "l1_loss"),
}
"""Functions that autocast brings to float32 on accelerators, and leaves as they are on a CPU."""
LAYERS, WARM = 12, 2
HIDDEN = (str(Path(torch.__file__).parent), __file__)


class _Counted(Exception):
    """Ends a fit after the counted step."""


@dataclass
class Launches:
    """Kernels by operator, and by operator and source line."""

    operators: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """The number of kernels."""
        return self.operators.total()


class _Operators(TorchDispatchMode):
    """Adds the kernels of operators to `found`; `named` looks up their source lines."""

    def __init__(self, found: Launches, *, named: bool) -> None:
        super().__init__()
        self._found, self._named = found, named
        self.on = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and importing the compiler takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        given = {x.untyped_storage()._cdata for x in _tensors([*args, *kwargs.values()])}
        result = func(*args, **kwargs)
        made = [x.untyped_storage()._cdata for x in _tensors([result])]
        is_view = made and not func._schema.is_mutable and given.issuperset(made)
        if self.on and "::" not in name and name not in NO_KERNEL and not is_view:
            fused = name.startswith("_scaled_dot_product") and name.endswith("backward")
            kernels = ATTENTION_BACKWARD if fused else 1
            self._found.operators[name] += kernels
            if self._named:
                self._found.places[f"{name:32} {_place()}"] += kernels
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _place() -> str:
    """The source line that an operator comes from, also in a backward pass (anomaly mode)."""
    node = torch._C._current_autograd_node()
    if node is None:
        frames = [(one.filename, one.lineno, one.name) for one in traceback.extract_stack()]
        lines = [
            f"{Path(f).name}:{n} {where}" for f, n, where in frames if not f.startswith(HIDDEN)
        ]
        return " < ".join(lines[:-4:-1])
    forward = "".join(node.metadata.get("traceback_", []))
    lines = [
        one.strip()
        for one in forward.splitlines()
        if one.strip().startswith("File") and not any(hidden in one for hidden in HIDDEN)
    ]
    files = [one.split('"')[1].rpartition("/")[2] + one.split('"')[2] for one in lines]
    return f"{node.name()} of {' < '.join(files[:-3:-1])}"


class _Autocast(TorchFunctionMode):
    """Brings functions to float32 under autocast, as accelerators do and a CPU does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on = torch.is_autocast_enabled("cpu") and "dtype" not in kwargs
        if on and getattr(func, "__name__", "") in IN_FLOAT32:
            args = tuple(map(_in_float32, args))
            kwargs = {name: _in_float32(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _in_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


@contextmanager
def as_accelerator() -> Iterator[None]:
    """Context in which CPU tensors are laid out, cast and optimized as on an accelerator."""
    with pytest.MonkeyPatch.context() as patch, _Autocast():
        use_accelerator_layout(patch)
        for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            patch.setattr(kind, "__init__", _fused(kind.__init__))
        yield


def _fused(create: Callable[..., None]) -> Callable[..., None]:
    """`Optimizer.__init__` that makes a fused optimizer."""

    def create_fused(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        create(optimizer, *args, **{**kwargs, "fused": True})

    return create_fused


@contextmanager
def counting_step(*, named: bool = False) -> Iterator[Launches]:
    """Context in which a fit ends after its third step, whose kernels are counted."""
    found, steps = Launches(), 0
    mode = _Operators(found, named=named)
    clear = Optimizer.zero_grad

    def start(optimizer: Any, set_to_none: bool = True) -> None:
        mode.on = steps == WARM
        clear(optimizer, set_to_none)

    def end(optimizer: Any, args: Any, kwargs: Any) -> None:
        nonlocal steps
        if mode.on:
            raise _Counted
        steps += 1

    with ExitStack() as stack:
        if named:
            stack.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        stack.enter_context(patch.object(Optimizer, "zero_grad", start))
        stack.callback(register_optimizer_step_post_hook(end).remove)
        stack.enter_context(mode)
        with suppress(_Counted):
            yield found


class _Views(MemoryShots):
    """Random features, since the encoding of views is not part of a step."""

    @property
    def raw_features(self) -> Tensor:
        return torch.randn(len(self), self.backbone.embed_dim)

    def views(self, count: int, *args: Any, **kwargs: Any) -> Tensor:
        projected = kwargs.get("projected", True)
        width = self.backbone.embed_dim if projected else self.backbone.image_tower().width
        drawn = torch.randn(count, len(self), width)
        return torch.nn.functional.normalize(drawn, dim=-1)


@functools.cache
def names_of_imagenet() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet, of one to some ten tokens."""
    import fsbench_datasets

    listed = Path(fsbench_datasets.__file__).with_name("imagenet_classes.txt")
    return tuple(line.split(" ", 1)[1] for line in listed.read_text().splitlines())


@functools.cache
def _backbone(precision: str) -> Any:
    return random_backbone(precision, width=32, layers=LAYERS, quick_gelu=True)


def count_step(
    method: Any, precision: str = "fp32", classes: int = 100, *, named: bool = False
) -> Launches:
    """The kernels of one training step of a method with the first names of ImageNet."""
    with as_accelerator():
        backbone = _backbone(precision)
        shots = random_shots(backbone, classes, -(-512 // classes), seed=1)
        train = _Views(shots.pixels, shots.labels, backbone)
        task = Task(names_of_imagenet()[:classes], ("a photo of a {}.",), train)
        with isolate(1), counting_step(named=named) as found:
            method.fit(task, backbone, Context(1, CPU, precision))
    assert found.total, f"{method.name} took no step"
    return found


def main(name: str, precision: str = "fp32", classes: str = "100") -> None:
    """Print the kernels of a step by source line."""
    found = count_step(registry().method_class(name)(), precision, int(classes), named=True)
    for place, number in found.places.most_common():
        print(f"{number:5} {place}")
    print(found.total)


if __name__ == "__main__":
    main(*sys.argv[1:])
