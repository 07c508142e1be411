"""Public API for methods that train: batches, views, steps, schedules, prompts, memory, checks.

The built-in methods train with it; docs/training.md lists shapes and sources. Results are
determined by the seed.
"""

from fewshot_bench.profiling.once import Derived, once_for
from fewshot_bench.training.batches import (
    epoch_views,
    minibatches,
    pixel_batches,
    steps_per_epoch,
    view_batches,
    views_in_turn,
)
from fewshot_bench.training.checks import (
    require,
    require_choices,
    require_not_negative,
    require_positive,
)
from fewshot_bench.training.conditioned import (
    Contexts,
    conditioned_backward,
    conditioned_logits,
    for_images,
)
from fewshot_bench.training.encoder_learning import (
    AfterStep,
    Backward,
    CosineEpochs,
    EncoderLearner,
    EpochLearner,
    EpochSchedule,
    StepLearner,
)
from fewshot_bench.training.encoder_model import (
    BatchLoss,
    ContextPrompts,
    EncoderBatch,
    EncoderClassifier,
    EncoderHooks,
    EncoderModel,
    Encoders,
    Learned,
    TemplatePrompts,
    TextPrompts,
)
from fewshot_bench.training.epochs import FeatureLoss, Step, step_on, train_epochs
from fewshot_bench.training.linear import LinearClassifier, linear_start, template_features
from fewshot_bench.training.memory import (
    Encode,
    backward_in_parts,
    chunks_for,
    encode_in_parts,
    must_recompute,
)
from fewshot_bench.training.prompt_learning import PromptLearner, embedded_words
from fewshot_bench.training.prompt_model import (
    CLASS_SPECIFIC,
    Encoding,
    FixedPrompts,
    Loss,
    PromptBatch,
    PromptClassifier,
    PromptModel,
    WithoutRun,
)
from fewshot_bench.training.prompts import Position, Prompts, build_prompts
from fewshot_bench.training.schedules import coop_epochs, dassl_rate
from fewshot_bench.training.selection import BestOnValidation, count_correct, first_best
from fewshot_bench.training.steps import (
    Autocast,
    Scale,
    cosine,
    device_generator,
    minimize,
    minimize_by,
    momentum_sgd,
    row_blocks,
    set_rate,
    unit,
)

__all__ = [
    "CLASS_SPECIFIC",
    "AfterStep",
    "Autocast",
    "Backward",
    "BatchLoss",
    "BestOnValidation",
    "ContextPrompts",
    "Contexts",
    "CosineEpochs",
    "Derived",
    "Encode",
    "EncoderBatch",
    "EncoderClassifier",
    "EncoderHooks",
    "EncoderLearner",
    "EncoderModel",
    "Encoders",
    "Encoding",
    "EpochLearner",
    "EpochSchedule",
    "FeatureLoss",
    "FixedPrompts",
    "Learned",
    "LinearClassifier",
    "Loss",
    "Position",
    "PromptBatch",
    "PromptClassifier",
    "PromptLearner",
    "PromptModel",
    "Prompts",
    "Scale",
    "Step",
    "StepLearner",
    "TemplatePrompts",
    "TextPrompts",
    "WithoutRun",
    "backward_in_parts",
    "build_prompts",
    "chunks_for",
    "conditioned_backward",
    "conditioned_logits",
    "coop_epochs",
    "cosine",
    "count_correct",
    "dassl_rate",
    "device_generator",
    "embedded_words",
    "encode_in_parts",
    "epoch_views",
    "first_best",
    "for_images",
    "linear_start",
    "minibatches",
    "minimize",
    "minimize_by",
    "momentum_sgd",
    "must_recompute",
    "once_for",
    "pixel_batches",
    "require",
    "require_choices",
    "require_not_negative",
    "require_positive",
    "row_blocks",
    "set_rate",
    "step_on",
    "steps_per_epoch",
    "template_features",
    "train_epochs",
    "unit",
    "view_batches",
    "views_in_turn",
]
