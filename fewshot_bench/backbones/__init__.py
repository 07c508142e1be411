"""Provisional API for methods that adapt the encoders: names may still change.

A method gets its towers from a `Backbone`; the names here serve to annotate and adapt them
(docs/how-to/own-backbone.md).
"""

from __future__ import annotations

from fewshot_bench.api.backbone import (
    Adapter,
    Branch,
    Edits,
    Factors,
    FusedAdapter,
    ImageTower,
    LoadedBackbone,
    PackedPrompts,
    Prefix,
    ProjectingBackbone,
    PromptPart,
    Scale,
    Scores,
    Site,
    TextTower,
    Tokens,
)
from fewshot_bench.api.text_features import pool_class_features
from fewshot_bench.backbones.papers import papers_of_weights
from fewshot_bench.utils.devices import fewer_kernels, free_bytes

__all__ = [
    "Adapter",
    "Branch",
    "Edits",
    "Factors",
    "FusedAdapter",
    "ImageTower",
    "LoadedBackbone",
    "PackedPrompts",
    "Prefix",
    "ProjectingBackbone",
    "PromptPart",
    "Scale",
    "Scores",
    "Site",
    "TextTower",
    "Tokens",
    "fewer_kernels",
    "free_bytes",
    "papers_of_weights",
    "pool_class_features",
]
