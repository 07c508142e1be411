"""Learned prompt tokens in both encoders: their places, and their initialization with words."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewshot_bench import Backbone, Vocabulary, hyper
from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.training import EpochLearner, require, require_positive
from fewshot_bench.training.provisional import ContextPrompts, build_prompts, embedded_words

_REPO = "MaPLe's and PromptSRC's repositories, configs/trainers"


@dataclass(frozen=True)
class DeepPrompts(EpochLearner):
    """Base for separate learned tokens in each of the first `depth` layers (MaPLe, IVLP)."""

    depth: int = hyper(9, "layers with rows of their own; a tower may have fewer", source=_REPO)
    context_init: str = hyper(
        "a photo of a",
        "words whose embeddings start the first rows of the text; words beyond them stay as they "
        "are; empty: random",
        source=_REPO,
    )
    init_std: float = hyper(0.02, "standard deviation of all other first values", source=_REPO)
    batch_size: int = hyper(4, "images per step", unit="images", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "depth", "init_std")


def appended(rows: Tensor) -> Edits:
    """Edits with tokens (layers, n, width) behind an image's patches; each layer replaces them.

    They have no position embeddings and are inserted before the LayerNorm that precedes the blocks.
    """
    tokens = (
        Tokens(layer, values, "end", "replace" if layer else "insert")
        for layer, values in enumerate(rows)
    )
    return Edits(tuple(tokens))


def behind_start(rows: Tensor) -> Edits:
    """Edits that replace a text's context by tokens (layers, n, width) before layers 1 and up.

    The tokens of layer 0 are the context itself.
    """
    return Edits(tuple(Tokens(layer, rows[layer]) for layer in range(1, len(rows))))


def require_words(method: EpochLearner, words: str, count: int) -> None:
    """UsageError unless there are `count` of `words` (`context_init`) or more, or none."""
    length = len(words.split())
    require(method, "context_init", not length or length >= count, _expectation(count))


def first_rows(method: EpochLearner, words: str, count: int, backbone: Backbone) -> Tensor | None:
    """(count, width) embeddings of the first `count` of `words` (`context_init`); None if empty.

    UsageError if one of these has several tokens.
    """
    if not words.strip():
        return None
    rows = embedded_words(" ".join(words.split()[:count]), backbone, backbone.text_tower())
    require(method, "context_init", len(rows) == count, _expectation(count))
    return rows


def _expectation(count: int) -> str:
    return f"{count} words of one token each or more, or none"


def prompts_behind(words: str, count: int, task: Vocabulary, backbone: Backbone) -> ContextPrompts:
    """Prompts of `count` learned tokens, the words after the first `count`, and the class name."""
    fixed = words.split()[count:]
    names = [" ".join([*fixed, name]) for name in task.classnames]
    tower = backbone.text_tower()
    return ContextPrompts(
        build_prompts(names, backbone, tower, tokens=count, position="end", class_specific=False)
    )
