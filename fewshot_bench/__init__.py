"""One harness for few-shot adaptation of vision-language models. Plug-ins import from here."""

from fewshot_bench.allocator import free_memory
from fewshot_bench.backbones.protocol import (
    Adapter,
    Backbone,
    FusedAdapter,
    ImageTower,
    PackedPrompts,
    PromptPart,
    Site,
    TextTower,
)
from fewshot_bench.cache_folder import cache_root
from fewshot_bench.data.recipe import Recipe, RemoteFile
from fewshot_bench.data.roots import data_roots
from fewshot_bench.dataset import (
    ENSEMBLE_TEMPLATES,
    SIMPLE_TEMPLATES,
    Dataset,
    DatasetCard,
    Preparable,
    Stamp,
    Stamped,
    file_stamp,
)
from fewshot_bench.demand import Demand
from fewshot_bench.errors import (
    ContractError,
    DataMissingError,
    FsbenchError,
    NotApplicableError,
    NumericalError,
    UnsupportedBackboneError,
    UsageError,
)
from fewshot_bench.image_formats import image_endings, image_remedy
from fewshot_bench.method import Classifier, Method, RunContext, Transferable, hyper
from fewshot_bench.metrics import Metric
from fewshot_bench.names import one_place, one_spelling
from fewshot_bench.plugins import hookimpl
from fewshot_bench.record import Record
from fewshot_bench.spec import RunSpec
from fewshot_bench.split_files.coop import Pools, load_split, save_split
from fewshot_bench.task import Augment, Images, Item, Shots, Split, Task, Vocabulary

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
    "Demand",
    "FsbenchError",
    "FusedAdapter",
    "ImageTower",
    "Images",
    "Item",
    "Method",
    "Metric",
    "NotApplicableError",
    "NumericalError",
    "PackedPrompts",
    "Pools",
    "Preparable",
    "PromptPart",
    "Recipe",
    "Record",
    "RemoteFile",
    "RunContext",
    "RunSpec",
    "Shots",
    "Site",
    "Split",
    "Stamp",
    "Stamped",
    "Task",
    "TextTower",
    "Transferable",
    "UnsupportedBackboneError",
    "UsageError",
    "Vocabulary",
    "cache_root",
    "data_roots",
    "file_stamp",
    "free_memory",
    "hookimpl",
    "hyper",
    "image_endings",
    "image_remedy",
    "load_split",
    "one_place",
    "one_spelling",
    "save_split",
]
