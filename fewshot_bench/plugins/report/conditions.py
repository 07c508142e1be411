"""The conditions of a block in words: what methods may use beside an image and the classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fewshot_bench.analysis.comparison import Block
from fewshot_bench.analysis.lending import LENT

_AT_ONCE = "test images at once, without their labels"
_STREAM = "a method sees test images one after the other and may remember those before"
_QUERIES = {
    "alone": "each test image is answered by itself",
    "all": f"a method sees all {_AT_ONCE}",
    r"batch-(\d+)": rf"a method sees \1 {_AT_ONCE}",
    r"batch-(\d+)-k(\d+)-(\d+)": rf"a method sees up to \1 {_AT_ONCE}, of \2 to \3 classes",
    "stream": _STREAM,
    "stream-classes": f"{_STREAM}, class by class",
    r"stream-g(.+)": rf"{_STREAM}, those of a class close together (gamma \1)",
}
_POOLING = {
    "unit-mean": "several texts of a class count by their mean at unit length",
    "mean": "several texts of a class count by their mean",
    "max": "of several texts of a class the closest one counts",
}


def _describe_queries(value: str) -> str:
    found = (re.fullmatch(pattern, value) for pattern in _QUERIES)
    texts = (
        match and match.expand(text) for match, text in zip(found, _QUERIES.values(), strict=True)
    )
    return next(filter(None, texts), f"queries {value}")


def _describe_texts(value: str) -> str:
    name, is_file, digest = value.partition("@")
    if is_file:
        return f"texts of the file {name} ({digest}) describe the classes"
    if value == "waffle":
        return "random words describe the classes, which knowledge of them must beat"
    return "prompt templates describe the classes"


_WORDS: Mapping[str, Callable[[Any], str]] = {
    "queries": _describe_queries,
    "views": lambda value: f"{value} view{'s' if value > 1 else ''} of a test image may be encoded",
    "bystanders": {
        "none": "all test images are of the classes to choose from",
        "new": "images of other classes are among the test images, and not scored",
    }.__getitem__,
    "texts": _describe_texts,
    "pooling": _POOLING.__getitem__,
}


def describe(block: Block) -> str:
    """A sentence on what the block allows; empty where all is as usual and nothing to tell apart.

    >>> describe(block)
    'Each test image is answered by itself; 64 views of a test image may be encoded.'
    """
    spec = block.records[0].spec
    said = [
        _WORDS[name](value)
        for name, about in LENT.items()
        if (value := getattr(spec, name)) != about.default or name in block.conditions
    ]
    return f"{said[0][0].upper()}{'; '.join(said)[1:]}." if said else ""
