"""Prompts that a text encoder cannot read, found before it is loaded: `too_long`.

A cell whose method encodes such a prompt fails, since open_clip would silently cut it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.backbones.open_clip import import_library
from fewshot_bench.backbones.shape import shape_of


def too_long(backbone: str, prompts: Sequence[str]) -> dict[str, int]:
    """The tokens of each prompt with more than `shape_of(backbone).context`; empty if unknown."""
    context = shape_of(backbone).context
    # CLIP's tokens are one byte at least, and a start and an end are added.
    long = [text for text in prompts if len(text.encode()) + 2 > context > 0]
    if not long:
        return {}
    tokenizer = import_library().SimpleTokenizer()
    counts = {text: len(tokenizer.encode(text)) + 2 for text in long}
    return {text: count for text, count in counts.items() if count > context}
