"""One harness for few-shot adaptation of vision-language models. Plug-ins import from here."""

from fewshot_bench.backbones.protocol import Adapter, Backbone, ImageTower, Site, TextTower
from fewshot_bench.dataset import (
    ENSEMBLE_TEMPLATES,
    SIMPLE_TEMPLATES,
    Dataset,
    DatasetCard,
)
from fewshot_bench.errors import (
    ContractError,
    DataMissingError,
    FsbenchError,
    UnsupportedBackboneError,
    UsageError,
)
from fewshot_bench.method import Classifier, Method, RunContext, hyper
from fewshot_bench.plugins import hookimpl
from fewshot_bench.record import Record
from fewshot_bench.spec import RunSpec
from fewshot_bench.task import Augment, Images, Item, Shots, Split, Task

__version__ = "0.1.0"

__all__ = [
    "ENSEMBLE_TEMPLATES",
    "SIMPLE_TEMPLATES",
    "Adapter",
    "Augment",
    "Backbone",
    "Classifier",
    "ContractError",
    "DataMissingError",
    "Dataset",
    "DatasetCard",
    "FsbenchError",
    "ImageTower",
    "Images",
    "Item",
    "Method",
    "Record",
    "RunContext",
    "RunSpec",
    "Shots",
    "Site",
    "Split",
    "Task",
    "TextTower",
    "UnsupportedBackboneError",
    "UsageError",
    "hookimpl",
    "hyper",
]
