"""Register the built-in methods by name; a method's module is imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench import hookimpl
from fsbench_methods.papers import OF_METHOD


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """Register all built-in methods with their suites.

    fast: trains at most heads and adapters behind frozen encoders. prompts: trains contexts of text
    prompts. adapters: trains modules behind or inside the encoders. deep: trains tokens, modules or
    weights inside the encoders. transductive: answers queries together. test-time: adapts to views
    of a query, or to a stream of them. seed-paper: rows of Table 3 of CLIP-LoRA's paper.
    """

    def add(name: str, target: str, *suites: str) -> None:
        register(name, f"fsbench_methods.{target}", suites=suites, paper=OF_METHOD[name])

    add("zero-shot", "zero_shot:ZeroShot", "fast", "seed-paper")
    add("transclip", "transclip:TransClip", "transductive")
    add("stata", "stata:StatA", "transductive")
    add("linear-probe", "linear_probe:LinearProbe", "fast")
    add("tip-adapter", "tip_adapter:TipAdapter", "fast")
    add("tip-adapter-f", "tip_adapter:TipAdapterF", "fast", "adapters", "seed-paper")
    add("ape", "ape:Ape", "fast")
    add("ape-t", "ape_t:ApeT", "fast", "adapters")
    add("coop", "coop:CoOp", "prompts", "seed-paper")
    add("cocoop", "cocoop:CoCoOp", "prompts", "seed-paper")
    add("kgcoop", "kgcoop:KgCoOp", "prompts", "seed-paper")
    add("prograd", "prograd:ProGrad", "prompts", "seed-paper")
    add("clip-lora", "clip_lora:ClipLora", "adapters", "seed-paper")
    add("dora", "dora:Dora", "adapters")
    add("adalora", "adalora:AdaLora", "adapters")
    add("ln-tuning", "layer_norms:LnTuning", "deep")
    add("bitfit", "layer_norms:BitFit", "deep")
    add("2sfs", "two_stage:TwoStage", "deep")
    add("clip-svd", "clip_svd:ClipSvd", "deep")
    add("prolip", "prolip:ProLip", "deep")
    add("clip-adapter", "clip_adapter:ClipAdapter", "fast", "adapters", "seed-paper")
    add("taskres", "taskres:TaskRes", "fast", "adapters", "seed-paper")
    add("lp++", "lp_plus_plus:LpPlusPlus", "fast")
    add("gda", "gda:Gda", "fast")
    add("zs-lp", "zs_lp:ZsLp", "fast")
    add("clap", "clap:Clap", "fast")
    add("proker", "proker:ProKeR", "fast")
    add("cross-modal", "cross_modal:CrossModal", "fast")
    add("wise-ft", "wise_ft:WiseFt", "fast")
    add("mma", "mma:Mma", "adapters", "deep")
    add("tcp", "tcp:Tcp", "prompts", "deep")
    add("mmrl", "mmrl:Mmrl", "adapters", "deep")
    add("full-ft", "full_ft:FullFineTuning", "deep")
    add("vpt-deep", "vpt:VptDeep", "adapters", "deep")
    add("vpt-shallow", "vpt:VptShallow", "adapters", "deep")
    add("ivlp", "ivlp:Ivlp", "adapters", "deep")
    add("maple", "maple:MaPLe", "adapters", "deep", "seed-paper")
    add("promptsrc", "promptsrc:PromptSrc", "adapters", "deep")
    add("plot++", "plot_plus_plus:PlotPlusPlus", "adapters", "deep", "seed-paper")
    add("zlap", "zlap:Zlap", "transductive")
    add("em-dirichlet", "em_dirichlet:EmDirichlet", "transductive")
    add("hard-em-dirichlet", "em_dirichlet:HardEmDirichlet", "transductive")
    add("tpt", "tpt:Tpt", "test-time")
    add("mta", "mta:Mta", "test-time")
    add("zero", "zero:Zero", "test-time")
    add("tda", "tda:Tda", "test-time")
