"""Encoder cost: images and prompt tokens that went through, and their FLOPs.

Encoders report as they run, forward and backward; whoever wants to know listens. FLOPs are counted
analytically (two per multiplication and addition of the matrix products and of attention), since
torch's own counter slows small models down and misses attention in evaluation mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass
class Work:
    """Images and text tokens that encoders computed, and FLOPs; whole numbers, no rounding.

    `uncounted` is how many images or prompts went through an encoder whose FLOPs are not known.
    """

    images: int = 0
    text_tokens: int = 0
    flops: int = 0
    uncounted: int = 0

    def add(self, other: Work) -> None:
        """Add another count to this one."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)

    def minus(self, other: Work) -> Work:
        """The difference."""
        names = [field.name for field in dataclasses.fields(self)]
        return Work(*(getattr(self, name) - getattr(other, name) for name in names))

    def to_dict(self) -> dict[str, int | None]:
        """As it stands in a record: FLOPs are null where a part of them is not known."""
        flops = None if self.uncounted else self.flops
        return {"images": self.images, "text_tokens": self.text_tokens, "flops": flops}


_LISTENING: list[Work] = []
Shared = Callable[[object, Sequence[str], "Callable[[], Tensor]"], "Tensor"]
_SHARING: list[Shared] = []


@contextmanager
def counting(work: Work) -> Iterator[None]:
    """Add what encoders do inside to `work`."""
    _LISTENING.append(work)
    try:
        yield
    finally:
        # By identity: two counts that are equal are not the same count.
        del _LISTENING[next(i for i, one in enumerate(_LISTENING) if one is work)]


@contextmanager
def unnoticed() -> Iterator[None]:
    """Work of the harness itself, which nobody counts."""
    listening, _LISTENING[:] = list(_LISTENING), []
    try:
        yield
    finally:
        _LISTENING[:] = listening


def count(images: int = 0, text_tokens: int = 0, flops: int = 0, uncounted: int = 0) -> None:
    """Report work to all who listen."""
    done = Work(images, text_tokens, flops, uncounted)
    for work in _LISTENING:
        work.add(done)


def count_backward(output: Tensor, flops: int) -> None:
    """Report `flops` when, and each time that, a gradient of `output` is computed."""
    if output.requires_grad and flops:
        output.register_hook(lambda _: count(flops=flops))  # type: ignore[no-untyped-call]


@contextmanager
def sharing(shared: Shared) -> Iterator[None]:
    """Let text features that backbones compute inside be kept by `shared`."""
    _SHARING.append(shared)
    try:
        yield
    finally:
        _SHARING.remove(shared)


def shared_text(backbone: object, prompts: Sequence[str], compute: Callable[[], Tensor]) -> Tensor:
    """Text features of `prompts`: kept and billed by the harness where it runs, else computed."""
    return _SHARING[-1](backbone, prompts, compute) if _SHARING else compute()
