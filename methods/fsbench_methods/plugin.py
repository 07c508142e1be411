"""Registers the built-in methods by name; nothing is imported before a method is used."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench import hookimpl


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """The methods of the seed comparison, and others on frozen features."""
    register("zero-shot", "fsbench_methods.zero_shot:ZeroShot")
    register("linear-probe", "fsbench_methods.linear_probe:LinearProbe")
    register("tip-adapter", "fsbench_methods.tip_adapter:TipAdapter")
    register("tip-adapter-f", "fsbench_methods.tip_adapter:TipAdapterF")
    register("coop", "fsbench_methods.coop:CoOp")
    register("clip-lora", "fsbench_methods.clip_lora:ClipLora")
    register("clip-adapter", "fsbench_methods.clip_adapter:ClipAdapter")
    register("taskres", "fsbench_methods.taskres:TaskRes")
    register("lp++", "fsbench_methods.lp_plus_plus:LpPlusPlus")
    register("gda", "fsbench_methods.gda:Gda")
