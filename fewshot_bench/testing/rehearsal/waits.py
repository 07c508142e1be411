"""`hear_waits`: where the host waits for a device, by source line and training step."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from fewshot_bench.testing.rehearsal import KIND, PACKAGE, load

_TORCH = str(Path(torch.__file__).parent)
_IMAGES = str(Path("fewshot_bench", "images"))
READS_OF_A_BATCH = 5


@dataclass(frozen=True)
class Wait:
    """A wait of the host.

    kind: `read` (a value or a size comes to the host), `upload` (a copy of memory that is not
    pinned), `synchronization`, or `overwriting`: no wait, but what it finds, pinned memory that was
    changed while a device might still read it. place: the innermost line outside of torch; empty in
    torch's own backward pass. images: True while images or features of images are loaded.
    """

    kind: str
    operator: str
    place: str
    images: bool

    def __str__(self) -> str:
        place = self.place or "the backward pass"
        return f"{self.kind} by {self.operator.removeprefix('aten::')} at {place}"


@dataclass
class Waits:
    """Waits and steps of optimizers, in order."""

    events: list[Wait | int] = field(default_factory=list)
    _optimizers: dict[int, Any] = field(default_factory=dict)

    def hear(self, kind: str, operator: str, device: int) -> None:
        """Add a wait, with the place of the line that is running in this thread."""
        frame, place, images = sys._getframe(1), "", False
        while frame is not None:
            file = frame.f_code.co_filename
            if not place and not file.startswith((_TORCH, "<")):
                place = f"{Path(file).name}:{frame.f_lineno} in {frame.f_code.co_name}"
            images = images or _IMAGES in file
            frame = frame.f_back  # type: ignore[assignment]
        self.events.append(Wait(kind, operator, place, images))

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # Held, so that no other optimizer gets its id.
        self._optimizers[id(optimizer)] = optimizer
        self.events.append(id(optimizer))

    @property
    def steps(self) -> int:
        """The number of steps of all optimizers."""
        return sum(isinstance(event, int) for event in self.events)

    def in_steps(self) -> list[Wait]:
        """Waits between the first and the last step of any optimizer, loading of images too."""
        inside: dict[int, Wait] = {}
        for owner in self._optimizers:
            ends = [place for place, event in enumerate(self.events) if event == owner]
            part = self.events[ends[0] : ends[-1]]
            inside |= {id(event): event for event in part if isinstance(event, Wait)}
        return list(inside.values())

    def in_answers(self, sees: str) -> list[Wait]:
        """The waits of an answer, except those that bring images and features to the device.

        sees: of the method's card. A whole batch may be read a few times, to be solved on the host.
        """
        waits = [event for event in self.events if isinstance(event, Wait)]
        waits = [wait for wait in waits if not wait.images or wait.kind == "overwriting"]
        return [] if sees == "batch" and len(waits) <= READS_OF_A_BATCH else waits


def can_hear(device: str) -> bool:
    """True for this rehearsal device and CUDA's, which say where the host waits."""
    kind = device.partition(":")[0]
    return kind == "cuda" or (kind == KIND and PACKAGE in sys.modules)


@contextmanager
def hear_waits(device: str) -> Iterator[Waits]:
    """Context that collects the waits of all threads for devices of this kind; see `can_hear`.

    CUDA tells no copy from a read.
    """
    waits = Waits()
    handle = register_optimizer_step_post_hook(waits._after_step)
    try:
        with load().listen(waits.hear) if device.startswith(KIND) else _hear_cuda(waits):
            yield waits
    finally:
        handle.remove()


@contextmanager
def _hear_cuda(waits: Waits) -> Iterator[None]:
    """Collect the warnings of CUDA at each operation that waits."""
    before = torch.cuda.get_sync_debug_mode()

    def show(message: Warning | str, *about: Any, **more: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            waits.hear("wait", "a synchronizing operation", 0)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
