"""Cost of work: seconds, and the encoders' work (images, prompt tokens, FLOPs).

Encoders report their forward and backward work by `count`; `counting` collects it. FLOPs are
analytic (two per multiply-add of the matrix products and attention), since torch's own counter
slows small models down and misses attention in evaluation mode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class Cost:
    """Seconds of wall clock and CPU time, and images, text tokens and FLOPs of encoders.

    Counts are exact integers. `uncounted` is the number of images or prompts that went through an
    encoder with unknown FLOPs; `unmetered` counts the times that code was handed an encoder whose
    work nothing meters. `joules` is the energy of an accelerator, 0 where it is not counted.
    """

    wall: float = 0.0
    cpu: float = 0.0
    images: int = 0
    text_tokens: int = 0
    flops: int = 0
    uncounted: int = 0
    unmetered: int = 0
    joules: float = 0.0

    def add(self, other: Cost) -> None:
        """Add another cost to this one, in place."""
        self.wall += other.wall
        self.cpu += other.cpu
        self.images += other.images
        self.text_tokens += other.text_tokens
        self.flops += other.flops
        self.uncounted += other.uncounted
        self.unmetered += other.unmetered
        self.joules += other.joules

    def __add__(self, other: Cost) -> Cost:
        total = dataclasses.replace(self)
        total.add(other)
        return total

    def __sub__(self, other: Cost) -> Cost:
        return self + other.scale(-1)

    def scale(self, times: int, parts: int = 1) -> Cost:
        """The cost of `times` of `parts` equal parts of the work; counts are rounded down."""
        return Cost(
            wall=self.wall * times / parts,
            cpu=self.cpu * times / parts,
            images=self.images * times // parts,
            text_tokens=self.text_tokens * times // parts,
            flops=self.flops * times // parts,
            uncounted=self.uncounted * times // parts,
            unmetered=self.unmetered * times // parts,
            joules=self.joules * times / parts,
        )

    def seconds(self) -> dict[str, float]:
        """`wall` and `cpu` for a record, rounded to microseconds."""
        return {"wall": round(self.wall, 6), "cpu": round(self.cpu, 6)}

    def counts(self) -> dict[str, int | None]:
        """Counts for a record; None where a part is unknown, or nothing was metered."""
        if self.unmetered:
            return {"images": None, "text_tokens": None, "flops": None}
        flops = None if self.uncounted else self.flops
        return {"images": self.images, "text_tokens": self.text_tokens, "flops": flops}

    def to_dict(self) -> dict[str, float]:
        """All fields, in the form that `from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Cost:
        """The inverse of `to_dict`; TypeError or ValueError for values that are no cost."""
        if not isinstance(values, Mapping) or not all(
            type(value) in (int, float) and math.isfinite(value) for value in values.values()
        ):
            raise ValueError(f"cost {values!r:.80}: expected finite numbers")
        return cls(**values)


# Process-wide, since torch computes (and counts) gradients on accelerators in its own threads.
_TOTALS: list[Cost] = []
_TOLD: list[Callable[[Tensor], None]] = []
TextCache = Callable[[object, Sequence[str], "Callable[[], Tensor]"], "Tensor"]
_TEXT_CACHES: list[TextCache] = []


@contextmanager
def hold_on(stack: list[T], entry: T) -> Iterator[None]:
    """Keep `entry` on `stack`, which all threads of the process share, inside the context."""
    stack.append(entry)
    try:
        yield
    finally:
        # By identity: two totals may compare equal.
        del stack[next(i for i, other in enumerate(stack) if other is entry)]


def counting(total: Cost) -> AbstractContextManager[None]:
    """Add the encoder work inside the context to `total`."""
    return hold_on(_TOTALS, total)


def not_counted() -> AbstractContextManager[None]:
    """Do not count the work inside, which is the harness's own and belongs to no cell."""
    return _set_aside(_TOTALS)


@contextmanager
def _set_aside(stack: list[T]) -> Iterator[None]:
    entries, stack[:] = list(stack), []
    try:
        yield
    finally:
        stack[:] = entries


def is_counting() -> bool:
    """True while a `counting` is open."""
    return bool(_TOTALS)


def count(
    images: int = 0,
    text_tokens: int = 0,
    flops: int = 0,
    uncounted: int = 0,
    unmetered: int = 0,
) -> None:
    """Report work to all open `counting` contexts; the arguments are the fields of `Cost`."""
    count_cost(Cost(0.0, 0.0, images, text_tokens, flops, uncounted, unmetered))


def count_cost(done: Cost) -> None:
    """Report work whose cost is known to all open `counting` contexts."""
    for total in _TOTALS:
        total.add(done)


def tell_pixels(pixels: Tensor) -> None:
    """Show pixels (b, 3, h, w) that enter an encoder to all open `telling` contexts."""
    for tell in _TOLD:
        tell(pixels)


def telling(tell: Callable[[Tensor], None] | None) -> AbstractContextManager[None]:
    """Call `tell` inside with the pixels that enter an encoder; None: show them to nobody."""
    return hold_on(_TOLD, tell) if tell else _set_aside(_TOLD)


def count_backward(output: Tensor, flops: int) -> None:
    """Report `flops` each time that a gradient of `output` is computed."""
    if output.requires_grad and flops:
        output.register_hook(lambda _: count(flops=flops))  # type: ignore[no-untyped-call]


def text_cache(cache: TextCache) -> AbstractContextManager[None]:
    """Route text features that backbones compute inside through `cache`."""
    return hold_on(_TEXT_CACHES, cache)


def share_text(backbone: object, prompts: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
    """Text features of `prompts`, from the open `text_cache` (which bills them), else computed."""
    return _TEXT_CACHES[-1](backbone, prompts, compute) if _TEXT_CACHES else compute()
