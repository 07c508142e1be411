"""Facts of methods that their cards do not have, for their pages in the docs.

A method without an entry in ROWS raises KeyError.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Facts of a method that its card does not have; formula: of its trained parameters."""

    trained: str
    formula: str
    validation: str
    hazard: str


_NOTHING = "nothing"
_HEAD = "C d"
_TWELVE = "learning rate, weight decay, batch size, step"
ROWS = {
    "zero-shot": Row(_NOTHING, "", _NOTHING, "one template or an ensemble is another baseline"),
    "transclip": Row(
        _NOTHING,
        "",
        "gamma (with support images)",
        "answers depend on the other queries; a class without any takes those of others",
    ),
    "stata": Row(_NOTHING, "", _NOTHING, "answers depend on the other queries"),
    "zlap": Row(_NOTHING, "", _NOTHING, "answers depend on the other queries"),
    "em-dirichlet": Row(
        _NOTHING,
        "",
        _NOTHING,
        "answers depend on the other queries; made for batches of few classes",
    ),
    "hard-em-dirichlet": Row(
        _NOTHING,
        "",
        _NOTHING,
        "answers depend on the other queries; made for batches of few classes",
    ),
    "linear-probe": Row(
        "linear head on raw image features",
        "C (d + 1)",
        "C",
        "starts without text, even at one shot",
    ),
    "tip-adapter": Row(_NOTHING, "", "beta, alpha", "4,000 pairs are compared on few images"),
    "tip-adapter-f": Row(
        "keys of the cache, behind the image encoder",
        "C K d",
        "beta, alpha (epoch with `select_epoch=val`)",
        "grows with shots; the official epoch is chosen on the test set",
    ),
    "ape": Row(
        _NOTHING,
        "",
        "beta, alpha, gamma",
        "80,000 triples are compared on few images; published with sentences of a language model",
    ),
    "ape-t": Row(
        "residual on texts and cached images of a class, weights of images",
        "C 0.78 d + C K",
        "epoch, beta, alpha",
        "its published constants differ by data set, and are for a width of 1,024",
    ),
    "coop": Row(
        "context of the prompt, before the text encoder",
        "M w",
        _NOTHING,
        "published numbers differ by schedule",
    ),
    "cocoop": Row(
        "context and a network that adds to it, before the text encoder",
        "",
        _NOTHING,
        "every query encodes all prompts: evaluation grows with images x classes",
    ),
    "kgcoop": Row(
        "context of the prompt, before the text encoder",
        "M w",
        _NOTHING,
        "weight of its penalty: 8 in the published scripts, 1 in the code",
    ),
    "prograd": Row(
        "context of the prompt, before the text encoder",
        "M w",
        _NOTHING,
        "two backward passes per step",
    ),
    "clip-lora": Row(
        "low-rank updates of q, k and v, inside both encoders",
        "rank 2",
        _NOTHING,
        "images are encoded in every step and for every classifier: no feature is shared",
    ),
    "dora": Row(
        "low-rank updates of directions and magnitudes of rows of q, k and v, inside both encoders",
        "rank 2, and a magnitude per row",
        _NOTHING,
        "more is trained than by clip-lora of the same rank; no few-shot setting is published",
    ),
    "adalora": Row(
        "updates of q, k and v that compete for ranks, inside both encoders",
        "rank 3 at first, a sum of ranks as clip-lora's at the end",
        _NOTHING,
        "1.5 times clip-lora's parameters are trained before ranks are lost",
    ),
    "ln-tuning": Row(
        "norms of all blocks, inside both encoders",
        "4 w per block",
        _NOTHING,
        "images are encoded in every step and for every classifier",
    ),
    "bitfit": Row(
        "all biases of both encoders",
        "",
        _NOTHING,
        "the published code trains 124,928: biases of q, k and v are missed there",
    ),
    "2sfs": Row(
        "norms of all blocks, inside both encoders; then a linear head",
        "61,440, then C d",
        _NOTHING,
        "the head answers classes that were fitted on, the text encoder others: no rule for both",
    ),
    "clip-svd": Row(
        "singular values of all matrices of all blocks, inside both encoders",
        "6 w per block",
        _NOTHING,
        "U and V of 144 matrices add 1.5 times their size in memory; weight decay pulls "
        "singular values to 0",
    ),
    "prolip": Row(
        "projection of the image encoder, also of ResNets",
        "w d",
        _NOTHING,
        "every step encodes a view of all images; small learning rates need half precision",
    ),
    "clip-adapter": Row(
        "bottleneck behind the image encoder",
        "2 d d / 4",
        _NOTHING,
        "no schedule is published; rows of other papers differ by 4 points",
    ),
    "taskres": Row(
        "residual on the class features, behind the text encoder",
        _HEAD,
        _NOTHING,
        "official factor and learning rate differ by data set (`--published`)",
    ),
    "lp++": Row(
        "linear head, bias and blending with the text",
        "C (d + 2)",
        "epoch",
        "gradients of the blending add up since the start, as in the official code",
    ),
    "gda": Row(_NOTHING, "", "alpha", "one covariance of few images: shrunk, in float64"),
    "zs-lp": Row("class vectors that start at the text", _HEAD, _NOTHING, "nothing holds it there"),
    "clap": Row(
        "class vectors that start at the text, held near it",
        _HEAD,
        _NOTHING,
        "multipliers are fixed before training",
    ),
    "proker": Row(
        _NOTHING,
        "",
        "beta, penalty",
        "solves for shots x classes points: memory grows with their square",
    ),
    "cross-modal": Row(
        "linear head that starts at the text",
        _HEAD,
        _TWELVE,
        "up to twelve trainings per fit where there is validation data",
    ),
    "wise-ft": Row(
        "linear head, averaged with the text",
        _HEAD,
        _TWELVE,
        "up to twelve trainings per fit; the paper fine-tunes the image encoder too",
    ),
    "mma": Row(
        "adapters beside the upper 8 blocks of both encoders",
        "8 x (49,952 + 33,312 + 1,056)",
        _NOTHING,
        "5 epochs are a base-to-new schedule; no few-shot schedule is published",
    ),
    "tcp": Row(
        "context, and a network that makes deep text tokens of class features",
        "",
        _NOTHING,
        "the epsilon of Adam bounds its steps; officially 25 epochs on two data sets",
    ),
    "mmrl": Row(
        "tokens in the upper 7 blocks of both encoders, and a second projection",
        "",
        _NOTHING,
        "published rows have a weight per data set; read-outs depend on whether classes are new",
    ),
    "full-ft": Row(
        "the image encoder and a linear head",
        "86,192,640 + C (d + 1)",
        _NOTHING,
        "`alpha=0.5` is WiSE-FT; no few-shot schedule is published",
    ),
    "vpt-deep": Row(
        "tokens beside the patches, in every layer of the image encoder",
        "12 x 8 x 768",
        _NOTHING,
        "its 5 epochs are a base-to-new schedule, and the first one runs at a rate of 1e-5",
    ),
    "vpt-shallow": Row(
        "tokens beside the patches, before the image encoder",
        "8 x 768",
        _NOTHING,
        "as vpt-deep",
    ),
    "ivlp": Row(
        "tokens in the first 9 layers of both encoders",
        "9 x 4 x (768 + 512)",
        _NOTHING,
        "two repositories run it with other tokens, depths and epochs",
    ),
    "maple": Row(
        "tokens in the first 9 layers of the text encoder, and maps of them to the image encoder",
        "9 x (2 x 512 + 513 x 768)",
        _NOTHING,
        "its 5 epochs are a base-to-new schedule; few-shot rows of other papers differ by 3 points",
    ),
    "promptsrc": Row(
        "tokens in the first 9 layers of both encoders",
        "9 x 4 x (768 + 512)",
        _NOTHING,
        "crops are encoded by frozen CLIP, too; 60 templates of ImageNet on every data set",
    ),
    "plot++": Row(
        "four contexts of the prompt, four sets of tokens beside the patches",
        "4 x (4 x 512 + 2 x 768)",
        _NOTHING,
        "encodes every image four times; officially all seeds share one first stage",
    ),
    "tpt": Row(
        "a context of text prompts, anew for every query",
        "4 x 512",
        _NOTHING,
        "64 encoded views of a query, and all prompts forward and backward",
    ),
    "mta": Row(_NOTHING, "", _NOTHING, "64 encoded views of a query"),
    "zero": Row(
        _NOTHING, "", _NOTHING, "64 encoded views of a query; crops hurt textures and satellites"
    ),
    "tda": Row(
        _NOTHING,
        "",
        _NOTHING,
        "a learning curve: the mean depends on the number and order of queries; officially two "
        "constants per data set",
    ),
}
