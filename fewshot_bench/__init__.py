"""One harness for few-shot adaptation of vision-language models; plug-ins and programs import it.

`run` computes results, `load` reads them, `load_model` opens a kept model
(docs/reference/python.md), `cell` is one cell by hand (docs/how-to/debug-a-method.md); the other
names are the contracts of plug-ins (docs/reference/method-contract.md). A name is imported when it
is first used, so that `import fewshot_bench` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    from fewshot_bench.analysis.comparison import Comparison
    from fewshot_bench.analysis.model import Model, load_model
    from fewshot_bench.analysis.results import CellPredictions, Results, load
    from fewshot_bench.api.backbone import Backbone
    from fewshot_bench.api.dataset import Dataset, DatasetCard
    from fewshot_bench.api.items import Item
    from fewshot_bench.api.method import (
        Classifier,
        Method,
        RunContext,
        Stream,
        Streaming,
        Transferable,
        hyper,
    )
    from fewshot_bench.api.method_card import MethodCard, Published
    from fewshot_bench.api.metrics import Metric
    from fewshot_bench.api.options import Option
    from fewshot_bench.api.paper import Paper
    from fewshot_bench.api.plugins import hookimpl
    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.api.task import Augment, Images, Shots, Split, Task, Vocabulary
    from fewshot_bench.engines.library import list_backbones, list_datasets, list_methods, run
    from fewshot_bench.engines.open_cell import OpenCell, cell
    from fewshot_bench.engines.reporting import FsbenchWarning
    from fewshot_bench.images.copies import find_copies
    from fewshot_bench.plugins.models.adapt import Adapted, adapt
    from fewshot_bench.plugins.models.evaluation import evaluate
    from fewshot_bench.plugins.models.extend import extend
    from fewshot_bench.utils.errors import (
        ContractError,
        DataMissingError,
        FsbenchError,
        NotApplicableError,
        NumericalError,
        UnsupportedBackboneError,
        UsageError,
    )

# Public names by module; the TYPE_CHECKING imports above repeat this for type checkers.
_NAMES = {
    "fewshot_bench.analysis.comparison": "Comparison",
    "fewshot_bench.analysis.model": "Model load_model",
    "fewshot_bench.analysis.results": "CellPredictions Results load",
    "fewshot_bench.api.backbone": "Backbone",
    "fewshot_bench.api.dataset": "Dataset DatasetCard",
    "fewshot_bench.api.method": (
        "Classifier Method RunContext Stream Streaming Transferable hyper"
    ),
    "fewshot_bench.api.method_card": "MethodCard Published",
    "fewshot_bench.api.metrics": "Metric",
    "fewshot_bench.api.options": "Option",
    "fewshot_bench.api.paper": "Paper",
    "fewshot_bench.api.plugins": "hookimpl",
    "fewshot_bench.api.record": "Record",
    "fewshot_bench.api.spec": "RunSpec",
    "fewshot_bench.api.items": "Item",
    "fewshot_bench.api.task": "Augment Images Shots Split Task Vocabulary",
    "fewshot_bench.engines.library": "list_backbones list_datasets list_methods run",
    "fewshot_bench.engines.open_cell": "OpenCell cell",
    "fewshot_bench.engines.reporting": "FsbenchWarning",
    "fewshot_bench.images.copies": "find_copies",
    "fewshot_bench.plugins.models.adapt": "Adapted adapt",
    "fewshot_bench.plugins.models.evaluation": "evaluate",
    "fewshot_bench.plugins.models.extend": "extend",
    "fewshot_bench.utils.errors": (
        "ContractError DataMissingError FsbenchError NotApplicableError NumericalError "
        "UnsupportedBackboneError UsageError"
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [
    "Adapted",
    "Augment",
    "Backbone",
    "CellPredictions",
    "Classifier",
    "Comparison",
    "ContractError",
    "DataMissingError",
    "Dataset",
    "DatasetCard",
    "FsbenchError",
    "FsbenchWarning",
    "Images",
    "Item",
    "Method",
    "MethodCard",
    "Metric",
    "Model",
    "NotApplicableError",
    "NumericalError",
    "OpenCell",
    "Option",
    "Paper",
    "Published",
    "Record",
    "Results",
    "RunContext",
    "RunSpec",
    "Shots",
    "Split",
    "Stream",
    "Streaming",
    "Task",
    "Transferable",
    "UnsupportedBackboneError",
    "UsageError",
    "Vocabulary",
    "__version__",
    "adapt",
    "cell",
    "evaluate",
    "extend",
    "find_copies",
    "hookimpl",
    "hyper",
    "list_backbones",
    "list_datasets",
    "list_methods",
    "load",
    "load_model",
    "run",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fewshot_bench' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
