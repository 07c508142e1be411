"""The table of all built-in methods at the top of docs/methods.md.

The entry point is `method_table`. The text column comes from each method's card; all other columns
come from ROWS, one entry per method: a method without an entry raises KeyError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry


class Row(NamedTuple):
    """Facts of a method: `parameters` at ViT-B/16 and 100 classes, with their formula."""

    trained: str
    parameters: str
    validation: str
    cost: str
    hazard: str


_NOTHING = "nothing"
_HEAD = "51,200 (C d)"
_TWELVE = "learning rate, weight decay, batch size, step"
ROWS = {
    "zero-shot": Row(
        _NOTHING, "0", _NOTHING, "closed form", "one template or an ensemble is another baseline"
    ),
    "linear-probe": Row(
        "linear head on raw image features",
        "51,300 (C (d + 1))",
        "C",
        "seconds",
        "starts without text, even at one shot",
    ),
    "tip-adapter": Row(
        _NOTHING, "0", "beta, alpha", "closed form", "4,000 pairs are compared on few images"
    ),
    "tip-adapter-f": Row(
        "keys of the cache, behind the image encoder",
        "819,200 at 16 shots (C K d)",
        "beta, alpha (epoch with `select_epoch=val`)",
        "seconds",
        "grows with shots; the official epoch is chosen on the test set",
    ),
    "coop": Row(
        "context of the prompt, before the text encoder",
        "8,192 (M w)",
        _NOTHING,
        "minutes",
        "published numbers differ by schedule",
    ),
    "cocoop": Row(
        "context and a network that adds to it, before the text encoder",
        "35,360",
        _NOTHING,
        "minutes",
        "every query encodes all prompts: evaluation grows with images x classes",
    ),
    "kgcoop": Row(
        "context of the prompt, before the text encoder",
        "2,048 (M w)",
        _NOTHING,
        "minutes",
        "weight of its penalty: 8 in the published scripts, 1 in the code",
    ),
    "prograd": Row(
        "context of the prompt, before the text encoder",
        "8,192 (M w)",
        _NOTHING,
        "minutes",
        "two backward passes per step",
    ),
    "clip-lora": Row(
        "low-rank updates of q, k and v, inside both encoders",
        "184,320 (rank 2)",
        _NOTHING,
        "minutes",
        "images are encoded in every step and for every classifier: no feature is shared",
    ),
    "dora": Row(
        "low-rank updates of directions and magnitudes of rows of q, k and v, inside both encoders",
        "230,400 (rank 2, and a magnitude per row)",
        _NOTHING,
        "minutes",
        "more is trained than by clip-lora of the same rank; no few-shot setting is published",
    ),
    "adalora": Row(
        "updates of q, k and v that compete for ranks, inside both encoders",
        "276,696 (rank 3 at first), a sum of ranks as clip-lora's at the end",
        _NOTHING,
        "minutes",
        "1.5 times clip-lora's parameters are trained before ranks are lost",
    ),
    "ln-tuning": Row(
        "norms of all blocks, inside both encoders",
        "61,440 (4 w per block)",
        _NOTHING,
        "minutes",
        "images are encoded in every step and for every classifier",
    ),
    "bitfit": Row(
        "all biases of both encoders",
        "171,008",
        _NOTHING,
        "minutes",
        "the published code trains 124,928: biases of q, k and v are missed there",
    ),
    "2sfs": Row(
        "norms of all blocks, inside both encoders; then a linear head",
        "61,440, then 51,200 (C d)",
        _NOTHING,
        "minutes",
        "the head answers classes that were fitted on, the text encoder others: no rule for both",
    ),
    "clip-svd": Row(
        "singular values of all matrices of all blocks, inside both encoders",
        "92,160 (6 w per block)",
        _NOTHING,
        "minutes",
        "U and V of 144 matrices add 1.5 times their size in memory; weight decay pulls "
        "singular values to 0",
    ),
    "prolip": Row(
        "projection of the image encoder, also of ResNets",
        "393,216 (w d)",
        _NOTHING,
        "minutes",
        "every step encodes a view of all images; small learning rates need half precision",
    ),
    "clip-adapter": Row(
        "bottleneck behind the image encoder",
        "131,072 (2 d d / 4)",
        _NOTHING,
        "seconds",
        "no schedule is published; rows of other papers differ by 4 points",
    ),
    "taskres": Row(
        "residual on the class features, behind the text encoder",
        _HEAD,
        _NOTHING,
        "seconds",
        "official factor and learning rate differ by data set (`--published`)",
    ),
    "lp++": Row(
        "linear head, bias and blending with the text",
        "51,400 (C (d + 2))",
        "epoch",
        "seconds",
        "gradients of the blending add up since the start, as in the official code",
    ),
    "gda": Row(
        _NOTHING, "0", "alpha", "closed form", "one covariance of few images: shrunk, in float64"
    ),
    "zs-lp": Row(
        "class vectors that start at the text", _HEAD, _NOTHING, "seconds", "nothing holds it there"
    ),
    "clap": Row(
        "class vectors that start at the text, held near it",
        _HEAD,
        _NOTHING,
        "seconds",
        "multipliers are fixed before training",
    ),
    "proker": Row(
        _NOTHING,
        "0",
        "beta, penalty",
        "closed form",
        "solves for shots x classes points: memory grows with their square",
    ),
    "cross-modal": Row(
        "linear head that starts at the text",
        _HEAD,
        _TWELVE,
        "minutes",
        "up to twelve trainings per fit where there is validation data",
    ),
    "wise-ft": Row(
        "linear head, averaged with the text",
        _HEAD,
        _TWELVE,
        "minutes",
        "up to twelve trainings per fit; the paper fine-tunes the image encoder too",
    ),
    "mma": Row(
        "adapters beside the upper 8 blocks of both encoders",
        "674,560 (8 x (49,952 + 33,312 + 1,056))",
        _NOTHING,
        "minutes",
        "5 epochs are a base-to-new schedule; no few-shot schedule is published",
    ),
    "tcp": Row(
        "context, and a network that makes deep text tokens of class features",
        "331,904",
        _NOTHING,
        "minutes",
        "the epsilon of Adam bounds its steps; officially 25 epochs on two data sets",
    ),
    "mmrl": Row(
        "tokens in the upper 7 blocks of both encoders, and a second projection",
        "4,992,256",
        _NOTHING,
        "minutes",
        "published rows have a weight per data set; read-outs depend on whether classes are new",
    ),
    "full-ft": Row(
        "the image encoder and a linear head",
        "86,243,940 (86,192,640 + C (d + 1))",
        _NOTHING,
        "minutes",
        "`alpha=0.5` is WiSE-FT; no few-shot schedule is published",
    ),
    "vpt-deep": Row(
        "tokens beside the patches, in every layer of the image encoder",
        "73,728 (12 x 8 x 768)",
        _NOTHING,
        "minutes",
        "its 5 epochs are a base-to-new schedule, and the first one runs at a rate of 1e-5",
    ),
    "vpt-shallow": Row(
        "tokens beside the patches, before the image encoder",
        "6,144 (8 x 768)",
        _NOTHING,
        "minutes",
        "as vpt-deep",
    ),
    "ivlp": Row(
        "tokens in the first 9 layers of both encoders",
        "46,080 (9 x 4 x (768 + 512))",
        _NOTHING,
        "minutes",
        "two repositories run it with other tokens, depths and epochs",
    ),
    "maple": Row(
        "tokens in the first 9 layers of the text encoder, and maps of them to the image encoder",
        "3,555,072 (9 x (2 x 512 + 513 x 768))",
        _NOTHING,
        "minutes",
        "its 5 epochs are a base-to-new schedule; few-shot rows of other papers differ by 3 points",
    ),
    "promptsrc": Row(
        "tokens in the first 9 layers of both encoders",
        "46,080 (9 x 4 x (768 + 512))",
        _NOTHING,
        "minutes",
        "each step encodes its images twice; 60 templates of ImageNet on every data set",
    ),
    "plot++": Row(
        "four contexts of the prompt, four sets of tokens beside the patches",
        "14,336 (4 x (4 x 512 + 2 x 768))",
        _NOTHING,
        "minutes",
        "encodes every image four times; officially all seeds share one first stage",
    ),
}
_WITHOUT_CARD = {"linear-probe": "none"}
_HEADER = (
    "method",
    "what is trained, and where",
    "trained parameters",
    "chosen on validation",
    "cost",
    "text knowledge",
    "hazard",
)


def method_table(names: Sequence[str]) -> str:
    """Markdown table of the methods in this order, with an explanation of its columns."""
    lines = [_line(_HEADER), _line(["---"] * len(_HEADER))]
    for name in names:
        trained, parameters, validation, cost, hazard = ROWS[name]
        card = card_of(registry().method_class(name))
        text = card.text if card else _WITHOUT_CARD.get(name, "templates")
        link = f"[{name}](#{name.replace('+', '')})"
        lines.append(_line([link, trained, parameters, validation, cost, text, hazard]))
    return f"{_ABOUT}\n" + "\n".join(lines) + f"\n\n{_LEFT_OUT}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_ABOUT = """Parameters are those of default settings at ViT-B/16 and 100 classes: C classes, K
shots, d = 512 features, M context tokens of width w = 512. Records hold those seen at the
optimizer. Without validation data nothing is chosen, and the defaults hold. Cost is that of a fit
on features that are encoded already, by what it runs: a closed form, steps on features (seconds),
steps through an encoder or many trainings (minutes); records hold what was measured.
"""
_LEFT_OUT = """Tip-Adapter-X (Tip-X of SuS-X, Udandarao et al. 2023) is left out, for it is
transductive: its affinities are rescaled by the extremes of the whole test set. Here every query is
answered alone.
"""
