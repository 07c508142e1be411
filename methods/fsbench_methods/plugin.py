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
    register("cocoop", "fsbench_methods.cocoop:CoCoOp")
    register("kgcoop", "fsbench_methods.kgcoop:KgCoOp")
    register("prograd", "fsbench_methods.prograd:ProGrad")
    register("clip-lora", "fsbench_methods.clip_lora:ClipLora")
    register("clip-adapter", "fsbench_methods.clip_adapter:ClipAdapter")
    register("taskres", "fsbench_methods.taskres:TaskRes")
    register("lp++", "fsbench_methods.lp_plus_plus:LpPlusPlus")
    register("gda", "fsbench_methods.gda:Gda")
    """All built-in methods, with the suites that each belongs to.
    fast: nothing but heads and adapters behind frozen encoders is trained. prompts: contexts of
    text prompts are. adapters: modules behind or inside the encoders are. seed-paper: rows of Table
    3 of CLIP-LoRA's paper.
    """
    def add(name: str, target: str, *suites: str) -> None:
        register(name, f"fsbench_methods.{target}", suites=suites)
    add("zero-shot", "zero_shot:ZeroShot", "fast", "seed-paper")
    add("linear-probe", "linear_probe:LinearProbe", "fast")
    add("tip-adapter", "tip_adapter:TipAdapter", "fast")
    add("tip-adapter-f", "tip_adapter:TipAdapterF", "fast", "adapters", "seed-paper")
    add("coop", "coop:CoOp", "prompts", "seed-paper")
    add("clip-lora", "clip_lora:ClipLora", "adapters", "seed-paper")
    add("clip-adapter", "clip_adapter:ClipAdapter", "fast", "adapters", "seed-paper")
    add("taskres", "taskres:TaskRes", "fast", "adapters", "seed-paper")
    add("lp++", "lp_plus_plus:LpPlusPlus", "fast")
    add("gda", "gda:Gda", "fast")
