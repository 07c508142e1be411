"""Parts of training that methods may use, but whose names and arguments may still change.

They are what the built-in methods share beside `fewshot_bench.training`: adapted encoders, frozen
models of prompts, steps that fit in memory. A change of one stands in the changelog.
"""

from fewshot_bench.profiling.once import Derived, once_for
from fewshot_bench.training.batches import (
    FeatureLoss,
    Step,
    pixel_batches,
    view_batches,
    views_in_turn,
)
from fewshot_bench.training.conditioned import (
    Contexts,
    conditioned_backward,
    conditioned_logits,
    for_images,
)
from fewshot_bench.training.encoder_learning import (
    ENCODES_TEXTS,
    AfterStep,
    Backward,
    CosineEpochs,
    EncoderLearner,
    EpochSchedule,
)
from fewshot_bench.training.encoder_model import (
    BatchLoss,
    ContextPrompts,
    EncoderBatch,
    EncoderClassifier,
    EncoderHooks,
    EncoderModel,
    TemplatePrompts,
    TextPrompts,
)
from fewshot_bench.training.memory import (
    Encode,
    backward_in_parts,
    bytes_of_views,
    chunks_for,
    encode_in_parts,
    must_recompute,
)
from fewshot_bench.training.prompt_learning import embedded_words
from fewshot_bench.training.prompt_model import (
    CLASS_SPECIFIC,
    Encoding,
    FixedPrompts,
    PromptClassifier,
    PromptModel,
    WithoutRun,
)
from fewshot_bench.training.prompts import Position, Prompts, build_prompts
from fewshot_bench.training.selection import count_correct, first_best
from fewshot_bench.training.steps import (
    Autocast,
    Scale,
    coop_epochs,
    dassl_rate,
    device_generator,
    row_blocks,
    to_float64,
)

__all__ = [
    "CLASS_SPECIFIC",
    "ENCODES_TEXTS",
    "AfterStep",
    "Autocast",
    "Backward",
    "BatchLoss",
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
    "Encoding",
    "EpochSchedule",
    "FeatureLoss",
    "FixedPrompts",
    "Position",
    "PromptClassifier",
    "PromptModel",
    "Prompts",
    "Scale",
    "Step",
    "TemplatePrompts",
    "TextPrompts",
    "WithoutRun",
    "backward_in_parts",
    "build_prompts",
    "bytes_of_views",
    "chunks_for",
    "conditioned_backward",
    "conditioned_logits",
    "coop_epochs",
    "count_correct",
    "dassl_rate",
    "device_generator",
    "embedded_words",
    "encode_in_parts",
    "first_best",
    "for_images",
    "must_recompute",
    "once_for",
    "pixel_batches",
    "row_blocks",
    "to_float64",
    "view_batches",
    "views_in_turn",
]
