"""Public API for methods that train: batches, views, steps, prompts, learners, checks.

The built-in methods train with it; docs/how-to/train-a-method.md shows it. Results are
determined by the seed. Parts that may still change are in `fewshot_bench.training.provisional`.
"""

import importlib

from fewshot_bench.api.text_features import raw_class_features, score_classes, text_samples
from fewshot_bench.training.batches import (
    epoch_views,
    minibatches,
    steps_per_epoch,
    train_epochs,
)
from fewshot_bench.training.checks import (
    require,
    require_choices,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.encoder_learning import EpochLearner, StepLearner
from fewshot_bench.training.encoder_model import Encoders, Learned
from fewshot_bench.training.linear import LinearClassifier, linear_start
from fewshot_bench.training.prompt_learning import PromptLearner
from fewshot_bench.training.prompt_model import Loss, PromptBatch
from fewshot_bench.training.selection import BestOnValidation
from fewshot_bench.training.steps import by_shots, cosine, momentum_sgd, unit
from fewshot_bench.training.train_step import step_on

__all__ = [
    "BestOnValidation",
    "Encoders",
    "EpochLearner",
    "Learned",
    "LinearClassifier",
    "Loss",
    "PromptBatch",
    "PromptLearner",
    "StepLearner",
    "by_shots",
    "cosine",
    "epoch_views",
    "linear_start",
    "minibatches",
    "momentum_sgd",
    "raw_class_features",
    "require",
    "require_choices",
    "require_not_negative",
    "require_positive",
    "score_classes",
    "step_on",
    "steps_per_epoch",
    "text_samples",
    "train_epochs",
    "unit",
]


def __getattr__(name: str) -> object:
    """Says where a name is that may still change, and that this module lacks."""
    if not name.startswith("_"):
        # `from ... import` would ask this function for the module, and so on without end.
        provisional = importlib.import_module(f"{__name__}.provisional")
        if name in provisional.__all__:
            raise ImportError(
                f"'{name}' may still change: from fewshot_bench.training.provisional import {name}"
            )
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
