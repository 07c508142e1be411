"""The published training steps as their official code runs them, for timing against ours.

Written from the papers and repositories: 77 tokens for every prompt, prompts tokenized in every
step where they are, B A multiplied out in every matrix and step, separate q, k and v products where
they are, no sharing between classes, the frozen image encoder run in every step where it is.
Nothing here is slower than in the original: what it logs or tests in a step is left out.

`STEPS` has a `Step` for every method but CLIP-LoRA, CoOp, LN-tuning and BitFit, whose steps run in
parts of the classes where memory is short.
"""

from __future__ import annotations

from benchmarks.official import deep, features, lora, prompts, tuned
from benchmarks.official.clip import (
    frozen_copy,
    image_features,
    plain_attentions,
    text_features,
)
from benchmarks.official.features import tip_search
from benchmarks.official.lora import ClipLoraStep
from benchmarks.official.parts import PART
from benchmarks.official.prompts import CoOpStep
from benchmarks.official.step import Setting, Step
from benchmarks.official.tuned import TunedStep

STEPS: dict[str, type[Step]] = {
    "2sfs": tuned.TwoStage,
    "adalora": lora.AdaLora,
    "clap": features.Clap,
    "clip-adapter": features.ClipAdapter,
    "clip-svd": tuned.ClipSvd,
    "cocoop": prompts.CoCoOp,
    "cross-modal": features.LinearHead,
    "dora": lora.Dora,
    "full-ft": tuned.FullFineTuning,
    "ivlp": deep.Ivlp,
    "kgcoop": prompts.KgCoOp,
    "lp++": features.LpPlusPlus,
    "maple": deep.MaPLe,
    "mma": deep.Mma,
    "mmrl": deep.Mmrl,
    "plot++": deep.PlotPlusPlus,
    "prograd": prompts.ProGrad,
    "prolip": features.ProLip,
    "promptsrc": deep.PromptSrc,
    "taskres": features.TaskRes,
    "tcp": prompts.Tcp,
    "tip-adapter-f": features.TipAdapterF,
    "vpt-deep": deep.VptDeep,
    "vpt-shallow": deep.VptShallow,
    "wise-ft": features.LinearHead,
    "zs-lp": features.ZsLp,
}

__all__ = [
    "PART",
    "STEPS",
    "ClipLoraStep",
    "CoOpStep",
    "Setting",
    "Step",
    "TunedStep",
    "frozen_copy",
    "image_features",
    "plain_attentions",
    "text_features",
    "tip_search",
]
