"""The conditions of a block in words: what methods may use beside an image and the classes."""

from __future__ import annotations

from collections.abc import Mapping

from fewshot_bench.analysis.comparison import Block
from fewshot_bench.analysis.lending import LENT

_BATCH = "a method sees {} test images at once, without their labels"
_STREAM = "a method sees test images one after the other and may remember those before"
# By condition and value; `...` stands for other values, which are put in.
_WORDS: Mapping[str, Mapping[object, str]] = {
    "queries": {
        "alone": "each test image is answered by itself",
        "all": _BATCH.format("all"),
        "batch-64": _BATCH.format(64),
        "batch-1000": _BATCH.format(1000),
        "batch-64-k2-10": f"{_BATCH.format('up to 64')}, of 2 to 10 classes",
        "stream": _STREAM,
        "stream-classes": f"{_STREAM}, class by class",
        "stream-g0.01": f"{_STREAM}, those of a class close together",
    },
    "views": {
        1: "one view of a test image is encoded",
        ...: "{} views of a test image may be encoded",
    },
    "bystanders": {
        "none": "all test images are of the classes to choose from",
        "new": "images of other classes are among the test images, and not scored",
    },
    "texts": {
        "templates": "prompt templates describe the classes",
        "waffle": "random words describe the classes, which knowledge of them must beat",
        ...: "texts of the file {} describe the classes",
    },
    "pooling": {
        "unit-mean": "several texts of a class count by their mean at unit length",
        "mean": "several texts of a class count by their mean",
        "max": "of several texts of a class the closest one counts",
    },
}


def describe(block: Block) -> str:
    """A sentence on what the block allows; empty where all is as usual and nothing to tell apart.

    >>> describe(block)
    'Each test image is answered by itself; 64 views of a test image may be encoded.'
    """
    spec = block.records[0].spec
    said = []
    for name, about in LENT.items():
        value, words = getattr(spec, name), _WORDS[name]
        if value != about.default or name in block.conditions:
            said.append(words.get(value, words.get(..., f"{name} {{}}")).format(value))
    return f"{said[0][0].upper()}{'; '.join(said)[1:]}." if said else ""
