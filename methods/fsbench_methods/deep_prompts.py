"""Learned rows in both encoders: where they stand, and the words that start those of the text."""

from __future__ import annotations

from torch import Tensor

from fewshot_bench import Backbone, Vocabulary
from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.training import (
    ContextPrompts,
    EpochLearner,
    build_prompts,
    embedded_words,
    require,
)


def appended(rows: Tensor) -> Edits:
    """Rows (layers, n, width) behind an image's patches; those of a layer replace the last ones.

    They have no positions, and stand there before the norm that precedes the blocks.
    """
    tokens = (
        Tokens(layer, values, "end", "replace" if layer else "insert")
        for layer, values in enumerate(rows)
    )
    return Edits(tuple(tokens))


def behind_start(rows: Tensor) -> Edits:
    """Rows (layers, n, width) that replace the context of a text before all layers but the first.

    The first ones are the context itself.
    """
    return Edits(tuple(Tokens(layer, rows[layer]) for layer in range(1, len(rows))))


def first_rows(method: EpochLearner, words: str, count: int, backbone: Backbone) -> Tensor | None:
    """(count, width) embeddings of the first of the words of `context_init`; None for no words.

    UsageError for fewer words, and for a word of several tokens among them.
    """
    if not words.strip():
        return None
    found = embedded_words(" ".join(words.split()[:count]), backbone, backbone.text_tower())
    expected = f"{count} words of one token each or more, or none"
    require(method, "context_init", len(found) == count, expected)
    return found


def prompts_behind(words: str, count: int, task: Vocabulary, backbone: Backbone) -> ContextPrompts:
    """Prompts of `count` learned rows, the words beyond them, and the class name."""
    fixed = words.split()[count:]
    names = [" ".join([*fixed, name]) for name in task.classnames]
    tower = backbone.text_tower()
    return ContextPrompts(
        build_prompts(names, backbone, tower, tokens=count, position="end", class_specific=False)
    )
