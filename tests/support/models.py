"""Folders of kept models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import loading
from fewshot_bench.store.kept_models import config_of, write_model


def zero_shot_model(folder: Path, classes: Sequence[str], **config: Any) -> Path:
    """Write a model that needs no fit; `config`: other fields of its configuration."""
    method = registry().method_class("zero-shot")()
    vocabulary = fb.Vocabulary(tuple(classes), ("a photo of a {}.",))
    about = config_of("zero-shot", method, loading.load("tiny"), vocabulary, **config)
    write_model(folder, about, {}, "# A model\n")
    return folder
