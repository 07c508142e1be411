"""The values that `auto` stands for: a backbone by the data sets, a precision by the device."""

from __future__ import annotations

from collections.abc import Iterable

from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, TOY

# The suite of the embedded data sets, which the toy was trained for, and what all others take.
DEMO = "demo"
USUAL = "ViT-B-16/openai"


def backbone_for(name: str, datasets: Iterable[str], targets: Iterable[str] = ()) -> str:
    """A name as it is; for `auto` the toy where every data set, targets too, is of the demo suite.

    One run has one backbone: where one of the sets is another one, all take the usual backbone.
    UsageError for a data set that is not known.
    """
    if name != AUTO:
        return name
    known = registry()
    asked = known.expand_datasets([*datasets, *targets])
    return TOY if asked and set(asked) <= set(known.datasets.suites().get(DEMO, ())) else USUAL


def cuda_is_there() -> bool:
    """True when torch finds a CUDA device on this machine."""
    import torch

    return bool(torch.cuda.is_available())


def precision_for(name: str, devices: tuple[str, ...], *, here: bool) -> str:
    """A name as it is; for `auto` fp32 on a CPU, on CUDA bf16 where all cards can, else fp16.

    here: whether cells run on this machine. Elsewhere (Slurm, Ray) the cards are not known, and
    fp16 is what each of them can; workers must not choose, for then cells would differ in it.
    """
    if name != AUTO:
        return name
    if devices[0].partition(":")[0] == "cpu":
        return "fp32"
    return "bf16" if here and all(map(_can_bf16, devices)) else "fp16"


def _can_bf16(device: str) -> bool:
    """True when a card computes in bf16 itself; older ones emulate it, slower than fp32."""
    import torch

    index = device.partition(":")[2]
    if not index:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with torch.cuda.device(int(index)):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
