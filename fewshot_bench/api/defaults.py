"""Resolve `auto`: the backbone from the data sets, the precision from the device."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, TOY
from fewshot_bench.utils import devices
from fewshot_bench.utils.errors import UsageError

# The suite of the embedded data sets, for which the toy was trained; all others use `USUAL`.
DEMO = "demo"
USUAL = "ViT-B-16/openai"

# cpu, or an accelerator with or without a number.
_DEVICE = re.compile(r"cpu|(?!cpu\b)[a-z][a-z0-9_]*(:\d{1,4})?")
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
    """UsageError unless a name is that of a device, and, if `here`, of one on this machine."""
    kind, _, index = name.partition(":")
    if not _DEVICE.fullmatch(name):
        raise UsageError(
            f"device '{name}': expected auto, cpu or an accelerator by its kind, such as cuda, "
            "and perhaps a number, such as cuda:1"
        )
    if here and int(index or 0) >= devices.count_devices(kind):
        raise UsageError(f"device '{name}': this machine has {_list_devices()}")


def _list_devices() -> str:
    """The devices of this machine, such as `cpu, cuda:0 and cuda:1`."""
    found = [devices.CPU]
    for kind in devices.list_accelerators():
        found += numbered(kind)
    return " and ".join(filter(None, (", ".join(found[:-1]), found[-1])))


def numbered(kind: str) -> tuple[str, ...]:
    """The names of all devices of a kind, by number if there are several."""
    count = devices.count_devices(kind)
    return tuple(f"{kind}:{number}" for number in range(count)) if count > 1 else (kind,)


def precision_for(name: str, names: tuple[str, ...], *, here: bool) -> str:
    """The precision `name`; `auto` is fp32 on a CPU, else bf16 if all devices have it, else fp16.

    names: of devices of one kind. here: cells run on this machine. Elsewhere (Slurm, Ray) the cards
    are unknown, so `auto` is a UsageError; workers must not choose, or the cells of a run would
    differ in precision. fp32 on an accelerator that has neither.
    """
    if name != AUTO:
        return name
    kind = names[0].partition(":")[0]
    if kind == devices.CPU:
        return "fp32"
    if not here:
        raise UsageError(
            f"precision auto: whether the {kind} devices of other machines have bf16 is not known "
            "here; give --precision bf16 if they have it, as NVIDIA cards since the A100 do, else "
            "--precision fp16"
        )
    if devices.has_bf16(names):
        return "bf16"
    return "fp16" if devices.has_fp16(kind) else "fp32"
