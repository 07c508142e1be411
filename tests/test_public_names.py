"""The public Python face: this list, and nothing else, is what a release promises."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
import types

import pytest

import fewshot_bench
import fewshot_bench.training

PUBLIC = {
    "fewshot_bench": (
        *("Adapted", "Augment", "Backbone", "CellPredictions", "Classifier", "Comparison"),
        *("ContractError", "DataMissingError", "Dataset", "DatasetCard", "FsbenchError"),
        *("FsbenchWarning", "Images", "Item", "Method", "MethodCard", "Metric", "Model"),
        *(
            "NotApplicableError",
            "NumericalError",
            "OpenCell",
            "Option",
            "Paper",
            "Published",
            "Record",
        ),
        *("Results", "RunContext", "RunSpec", "Shots", "Split", "Stream", "Streaming", "Task"),
        "Transferable",
        *("UnsupportedBackboneError", "UsageError", "Vocabulary", "__version__", "adapt"),
        *(
            "cell",
            "evaluate",
            "extend",
            "find_copies",
            "hookimpl",
            "hyper",
            "list_backbones",
            "list_datasets",
            "list_methods",
        ),
        *("load", "load_model", "run"),
    ),
    "fewshot_bench.training": (
        *("BestOnValidation", "Encoders", "EpochLearner", "Learned", "LinearClassifier", "Loss"),
        *("PromptBatch", "PromptLearner", "StepLearner", "by_shots", "cosine", "epoch_views"),
        *("linear_start", "minibatches", "momentum_sgd", "raw_class_features", "require"),
        *("require_choices", "require_not_negative", "require_positive", "score_classes"),
        *("step_on", "steps_per_epoch", "text_samples", "train_epochs", "unit"),
    ),
}
# Modules whose names may change with any release: their first sentence says so.
PROVISIONAL = (
    "fewshot_bench.api.sources",
    "fewshot_bench.backbones",
    "fewshot_bench.engines",
    "fewshot_bench.testing",
    "fewshot_bench.training.provisional",
)
# A text, a marker of pluggy, and names of types.
WITHOUT_EXAMPLE = ("__version__", "hookimpl", "Learned", "Loss")


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == set(PUBLIC[module])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module, names in PUBLIC.items()
        for name in names
        if name not in WITHOUT_EXAMPLE
    ],
)
def test_every_public_name_has_an_example(module: str, name: str) -> None:
    text = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
    examples = doctest.DocTestParser().get_examples(text)
    assert examples
    for example in examples:
        compile(example.source, name, "single")


@pytest.mark.parametrize("module", PROVISIONAL)
def test_provisional_modules_say_so(module: str) -> None:
    text = " ".join((importlib.import_module(module).__doc__ or "").split())
    assert "rovisional" in text or "may still change" in text


def test_a_provisional_name_is_found_by_its_error() -> None:
    """In a new process, where nothing has imported the provisional module yet."""
    code = "from fewshot_bench.training import count_correct"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "from fewshot_bench.training.provisional import count_correct" in done.stderr
    assert not hasattr(fewshot_bench.training, "count_corect")


def test_no_name_is_both_a_module_and_a_function() -> None:
    for name in fewshot_bench.__all__:
        assert not isinstance(getattr(fewshot_bench, name), types.ModuleType), name
