"""Resolve `auto`: the backbone from the data sets, the precision from the device."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import nullcontext

from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, TOY
from fewshot_bench.utils.errors import UsageError

# The suite of the embedded data sets, for which the toy was trained; all others use `USUAL`.
DEMO = "demo"
USUAL = "ViT-B-16/openai"

# The slash of `ViT-B/16`.
_SLASH = re.compile(r"^(ViT-[A-Za-z]+)/(?=\d)", re.IGNORECASE)


def backbone_for(name: str, datasets: Iterable[str], targets: Iterable[str] = ()) -> str:
    """The full name of a backbone; `auto` is the toy if all data sets and targets are in the demo.

    A run has one backbone: with any other data set, `auto` is the usual backbone. UsageError for
    an unknown data set.
    """
    plugins = registry()
    if name != AUTO:
        return full_name(name)
    asked = plugins.expand_datasets([*datasets, *targets])
    return TOY if asked and set(asked) <= set(plugins.datasets.suites().get(DEMO, ())) else USUAL


def full_name(name: str) -> str:
    """`ViT-B-16/openai` for `ViT-B/16` and `ViT-B-16`, so that one backbone has one name.

    Registered names and those of other forms are unchanged.
    """
    if name in registry().backbones.entries:
        return name
    # OpenAI's own name whose @ is not followed by a file.
    if name == "ViT-L/14@336px":
        return "ViT-L-14-336/openai"
    model, at, file = name.partition("@")
    model = _SLASH.sub(r"\1-", model)
    tagged = at or "/" in model or not model.startswith(("ViT-", "RN"))
    return f"{model}{at}{file}" if tagged else f"{model}/openai"


def check_device(name: str, *, here: bool) -> None:
    """UsageError unless a device is `cpu`, `cuda` or `cuda:N`, and, if `here`, on this machine."""
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdigit())):
        raise UsageError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
    if here and kind == "cuda":
        import torch

        count = torch.cuda.device_count()
        if int(index or 0) >= count:
            raise UsageError(f"device '{name}': this machine has {count} CUDA devices; use cpu")


def cuda_is_there() -> bool:
    """True if torch finds a CUDA device on this machine."""
    import torch

    return bool(torch.cuda.is_available())


def precision_for(name: str, devices: tuple[str, ...], *, here: bool) -> str:
    """The precision `name`; `auto` is fp32 on a CPU, on CUDA bf16 if all GPUs have it, else fp16.

    here: cells run on this machine. Elsewhere (Slurm, Ray) the GPUs are unknown, so `auto` is fp16,
    which all support; workers must not choose, or the cells of a run would differ in precision.
    """
    if name != AUTO:
        return name
    if devices[0].partition(":")[0] == "cpu":
        return "fp32"
    if not here:
        return "fp16"
    import torch

    for index in (device.partition(":")[2] for device in devices):
        with torch.cuda.device(int(index)) if index else nullcontext():
            # Older GPUs emulate bf16, slower than fp32.
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                return "fp16"
    return "bf16"
