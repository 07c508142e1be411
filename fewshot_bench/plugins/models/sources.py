"""What a model was made from, with paths of this machine: `sources.json`, to make it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.store.kept_models import SOURCES
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import read_regular

ASKED = frozenset(
    ("method", "options", "classnames", "templates", "metric", "relabel", "shots", "seed", "exif")
    + ("keep_contradictions", "skip_damaged", "keep_support", "reject", "negatives")
)
"""Arguments of `adapt` that decide which model is made of which pictures."""


class Sources(msgspec.Struct, frozen=True):
    """datasets: names, with whole paths; asked: the arguments of `adapt` in ASKED."""

    datasets: tuple[str, ...]
    asked: dict[str, Any]


class Joined(str):
    """The name of a data set that holds the pictures of others, for the time of a call."""

    datasets: tuple[str, ...]


def pack_sources(dataset: str, asked: Mapping[str, Any]) -> bytes:
    """The content of `sources.json`. asked: all arguments of `adapt`."""
    family, _, path = dataset.partition(":")
    whole = os.path.abspath(os.path.expanduser(path))
    name = f"{family}:{whole}" if path and os.path.exists(whole) else dataset
    datasets = dataset.datasets if isinstance(dataset, Joined) else (name,)
    sources = Sources(datasets, {key: asked[key] for key in asked if key in ASKED})
    return msgspec.json.format(msgspec.json.encode(sources, enc_hook=os.path.abspath)) + b"\n"


def read_sources(folder: Path) -> Sources:
    """What the model in a folder was made from; one-line StoreError if it does not tell."""
    try:
        told = msgspec.json.decode(read_regular(folder / SOURCES), type=Sources)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{folder / SOURCES} does not tell what the model was made from ({error}); adapt to a "
            "folder of all images"
        ) from None
    return Sources(told.datasets, {key: told.asked[key] for key in told.asked if key in ASKED})
