"""The self-test of a device: is what it computes right, and how fast are its parts.

`run_checks` is the entry point. One method per family is fitted to an embedded data set with the
embedded backbone: on the CPU, then on the device in float32, in 16 bits, and with captured steps.
Rates of the loader, of launches and of matrix products are measured, not judged.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.api.spec import RunSpec
from fewshot_bench.api.task import Augment
from fewshot_bench.images.augment import draw_passes
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.runner.fit import AUTOCAST
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.training.back_ends import resolve_kind
from fewshot_bench.utils.devices import is_accelerator, synchronize
from fewshot_bench.utils.prefetch import cores
from fewshot_bench.utils.step_kind import SOFT, VARIABLE, Kind, read_kind

FAMILIES = {
    "zero-shot": "no training",
    "tip-adapter-f": "cached features",
    "coop": "prompts",
    "maple": "prompts in both encoders",
    "clip-lora": "low-rank updates",
    "ln-tuning": "the encoders' own weights",
}
SHORT = (
    *("tip-adapter-f.epochs=3", "coop.epochs=3", "maple.epochs=1"),
    *("clip-lora.iterations=4", "ln-tuning.iterations=4"),
)
# The mean gap of logits, relative to their spread: of float32 on two devices, of 16 bits and
# float32 after the few steps here, and of captured and eager steps.
SAME, ROUNDED = 0.01, 0.15
# Products grow to this side, or until one takes this many seconds.
LEAST_SIDE, LARGEST_SIDE, LONG = 256, 8192, 0.02
LAUNCHES = 2000
CROPS, BATCH, SIZE = 48, 32, 224


@dataclass(frozen=True)
class Check:
    """A finding; passed: None for one that is measured and not judged."""

    name: str
    shown: str
    passed: bool | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def captured_kind(device: torch.device) -> Kind:
    """The kind of captured step that a device can take: its own graph, else one in software."""
    kind = resolve_kind("auto", device)
    return SOFT if kind == "eager" else kind


def run_checks(device: torch.device, precision: str) -> Iterator[Check]:
    """All checks in turn; an error of one is its finding. precision: that of runs by default."""
    half = precision if precision in AUTOCAST else "bf16"
    for work in (_measure_products, _measure_launches, _measure_crops):
        yield _guarded(work.__name__.strip("_").replace("_", " "), work, device, half)
    for method in FAMILIES:
        yield _guarded(method, _check_method, device, half, method)


def _guarded(name: str, work: Callable[..., Check], *arguments: Any) -> Check:
    try:
        return work(*arguments)
    except Exception as error:
        said = " ".join(str(error).split())
        return Check(name, f"{type(error).__name__}: {said:.200}", passed=False)


def _check_method(device: torch.device, half: str, method: str) -> Check:
    """Logits of one method, compared with those of float32 and eager steps."""
    captured = captured_kind(device)
    start = time.perf_counter()
    eager = _logits(method, device, "fp32", "eager")
    others = {half: (device, half, "eager"), captured: (device, "fp32", captured)}
    if is_accelerator(device):
        others["cpu"] = torch.device("cpu"), "fp32", "eager"
    gaps = {name: _gap(_logits(method, *other), eager) for name, other in others.items()}
    limits = dict.fromkeys(gaps, SAME) | {half: ROUNDED}
    seconds = time.perf_counter() - start
    shown = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    return Check(
        f"{method} ({FAMILIES[method]})",
        f"gaps to float32 with eager steps: {shown}; {seconds:.1f} s",
        all(gap < limits[name] for name, gap in gaps.items()),
        {"gaps": gaps, "limits": limits, "seconds": round(seconds, 2)},
    )


def _logits(method: str, device: torch.device, precision: str, step: Kind) -> Tensor:
    """(n, classes) logits of a short fit; RuntimeError if it failed or was not captured."""
    session = Session(None, str(device))
    session.step = step
    outcome = run_one(_cell(method, device, precision), session)
    error = outcome.record.error
    if outcome.logits is None or error is not None:
        raise RuntimeError(f"{device} {precision} {step}: {(error or {}).get('message')}")
    fallen = [one["text"] for one in outcome.record.incidents if one["kind"] == "step"]
    if fallen:
        raise RuntimeError(f"{device} {precision} {step}: {fallen[0]}")
    return outcome.logits


def _cell(method: str, device: torch.device, precision: str) -> RunSpec:
    options = tuple(option for option in SHORT if option.startswith(f"{method}."))
    request = Request(
        methods=(method,),
        datasets=("digits",),
        shots=(2,),
        seeds=(1,),
        limit=40,
        # A search on validation images may choose another scale of logits.
        val="none",
        options=options,
        backbone="tiny",
        precision=precision,
        devices=(device.type,),
    )
    return expand(request).cells[0]


def _gap(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().mean() / expected.std())


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The best of three, after one call to warm up."""
    work()
    synchronize(device)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def _measure_products(device: torch.device, half: str) -> Check:
    """Rates of matrix products in float32 and in 16 bits."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), (half, AUTOCAST[half])):
        side, taken = LEAST_SIDE // 2, 0.0
        while side < LARGEST_SIDE and taken < LONG:
            side *= 2
            one = torch.randn(side, side).to(device, dtype)
            taken = _seconds(partial(torch.mm, one, one), device)
        rates[name] = 2 * side**3 / taken / 1e12
    shown = ", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in rates.items())
    return Check("matrix products", shown, None, {"tflops": rates})


def _measure_launches(device: torch.device, half: str) -> Check:
    """The time that the host needs for a small kernel, by which eager steps are bound."""
    one = torch.ones(16, device=device)

    def work() -> None:
        for _ in range(LAUNCHES):
            one.add_(1.0)

    micros = 1e6 * _seconds(work, device) / LAUNCHES
    shown = f"{micros:.1f} us each; an eager step of clip-lora launches about 1,100"
    return Check("small kernels", shown, None, {"microseconds": micros})


def _measure_crops(device: torch.device, half: str) -> Check:
    """Random crops of JPEG files of 500 x 375 pixels to 224 x 224 that the loader cuts."""
    images = ImageSource(_Photographs(), CROPS, _Transform(device))  # type: ignore[arg-type]
    rates = []
    for _ in range(2):
        start = time.perf_counter()
        passes = draw_passes(1, torch.Generator().manual_seed(0))
        for pixels in images.batches(BATCH, list(range(CROPS)), Augment(), passes):
            pixels.to(device)
        synchronize(device)
        rates.append(CROPS / (time.perf_counter() - start))
    first, later = rates
    shown = f"{first:,.0f} a second in the first epoch, {later:,.0f} later, with {cores()} cores"
    return Check("crops", shown, None, {"first": first, "later": later, "cores": cores()})


class _Photographs(EncodedFiles):
    """Made-up photographs in memory."""

    name, stamped = "self-test", False

    def __init__(self) -> None:
        self._files = [_photograph(seed) for seed in range(8)]

    @property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 of every file."""
        return tuple(hashlib.sha256(self.read(index)).digest() for index in range(CROPS))

    def read(self, index: int) -> bytes:
        """One of eight files."""
        return self._files[index % len(self._files)]

    def title(self, index: int) -> str:
        """Its number."""
        return str(index)


def _photograph(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


class _Transform:
    """The part of a backbone that the loader asks for; pixels stay bytes."""

    image_size = (SIZE, SIZE)

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def normalize(self, pixels: Tensor) -> Tensor:
        """The pixels as they are."""
        return pixels


def describe_choices(device: torch.device, precision: str) -> dict[str, str]:
    """The choices that runs on this device make by default, with reasons."""
    reasons = {
        "bf16": "the device computes in bf16",
        "fp16": "the device has no bf16 of its own; gradients are scaled",
        "fp32": "the default on a CPU, and where there is no autocast to 16 bits",
    }
    asked = read_kind()
    step = resolve_kind(asked, device)
    why = f"torch has {'no ' * (step == 'eager')}graphs of {device.type} devices"
    if asked != "auto":
        why = f"{VARIABLE} asks for it"
    return {
        "device": str(device),
        "precision": f"{precision}: {reasons[precision]}",
        "step": f"{step}: {why}",
    }
