"""Provisional API for data sources, whose names may still change: recipes, stamps, split files.

`fewshot_bench` exports what every data set needs (`Dataset`, `DatasetCard`, `Item`); this module
serves data sets that are fetched, stored in folders or have published lists
(docs/how-to/own-dataset.md).
"""

from fewshot_bench.api.dataset import (
    ENSEMBLE_TEMPLATES,
    MOST_COMPARED,
    SIMPLE_TEMPLATES,
    Preparable,
    Recipe,
    RemoteFile,
    Stamp,
    Stamped,
    data_roots,
    file_stamp,
    placeholder_names,
)
from fewshot_bench.api.items import ItemList, Names, Run, label_counts, lines_of_part, packed, parts
from fewshot_bench.api.paper import THIS_TOOL
from fewshot_bench.api.split_file import MAX_BYTES, Pools, load_split, save_split
from fewshot_bench.utils.files import read_regular
from fewshot_bench.utils.image_formats import image_endings, image_remedy
from fewshot_bench.utils.small_cache import keep_list, kept_list
from fewshot_bench.utils.spelling import one_place, one_spelling
from fewshot_bench.utils.text import in_prompts, plain_text

__all__ = [
    "ENSEMBLE_TEMPLATES",
    "MAX_BYTES",
    "MOST_COMPARED",
    "SIMPLE_TEMPLATES",
    "THIS_TOOL",
    "ItemList",
    "Names",
    "Pools",
    "Preparable",
    "Recipe",
    "RemoteFile",
    "Run",
    "Stamp",
    "Stamped",
    "data_roots",
    "file_stamp",
    "image_endings",
    "image_remedy",
    "in_prompts",
    "keep_list",
    "kept_list",
    "label_counts",
    "lines_of_part",
    "load_split",
    "one_place",
    "one_spelling",
    "packed",
    "parts",
    "placeholder_names",
    "plain_text",
    "read_regular",
    "save_split",
]
