"""What a data set is opened with, and what to say of a place that names none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.utils.errors import UsageError

# Below a store: the splits that data sets make of a person's own images.
KEPT_SPLITS = Path("splits", "made")


def options_of(
    name: str, opener: Callable[..., Any], data: Mapping[str, Any], store: Path | None
) -> dict[str, Any]:
    """The parameters of a data set's function that were asked for, as far as it has them."""
    known = inspect.signature(opener).parameters
    options: dict[str, Any] = {"holdout": data["holdout"]} if "holdout" in data else {}
    if options and "holdout" not in known:
        raise UsageError(f"'{name}' comes with its own test images; leave --holdout out")
    if store is not None and "splits" in known:
        options["splits"] = store / KEPT_SPLITS
    if name in data.get(SKIPPED, {}) and "lenient" in known:
        options["lenient"] = True
    return options


def place_without_family(name: str) -> UsageError:
    """The error for a folder or file that is there, under no name of a data set."""
    family = "folder" if Path(name).is_dir() else "manifest"
    return UsageError(
        f"unknown data set '{name}': did you mean '{family}:{name}'? ({name} is a "
        f"{'folder' if family == 'folder' else 'file'} here; docs/own-data.md)"
    )
