"""One harness for few-shot adaptation of vision-language models. Plug-ins import from here."""

from fewshot_bench.api.backbone import (
    Adapter,
    Backbone,
    FusedAdapter,
    ImageTower,
    PackedPrompts,
    PromptPart,
    Site,
    TextTower,
)
from fewshot_bench.api.dataset import (
    ENSEMBLE_TEMPLATES,
    SIMPLE_TEMPLATES,
    Dataset,
    DatasetCard,
    Preparable,
    Stamp,
    Stamped,
    file_stamp,
)
from fewshot_bench.api.demand import Demand
from fewshot_bench.api.method import Classifier, Method, RunContext, Transferable, hyper
from fewshot_bench.api.plugins import hookimpl
from fewshot_bench.api.recipe import Recipe, RemoteFile
from fewshot_bench.api.record import Record
from fewshot_bench.api.roots import data_roots
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.api.task import Augment, Images, Item, Shots, Split, Task, Vocabulary
from fewshot_bench.images.formats import image_endings, image_remedy
from fewshot_bench.splits.coop import Pools, load_split, save_split
from fewshot_bench.utils.allocator import free_memory
from fewshot_bench.utils.cache_dir import cache_root
from fewshot_bench.utils.errors import (
    ContractError,
    DataMissingError,
    FsbenchError,
    NotApplicableError,
    NumericalError,
    UnsupportedBackboneError,
    UsageError,
)
from fewshot_bench.utils.names import one_place, one_spelling
from fewshot_bench.utils.version import __version__

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
    "__version__",
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
