"""Names that columns of tables and data frames have already, so that no metric may take them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from fewshot_bench.api.spec import CONDITIONS, RunSpec

# Endings of the columns that stand beside a metric's own in CSV, JSON and data frames.
BESIDE = ("_mean", "_ci95", "_n", "_min", "_max")
# tests/api/test_metric_names.py compares these with the columns that are written.
_OF_TABLES = (
    *("n", "n_seeds", "seeds", "missing_seeds", "failed", "errors", "reason", "marks"),
    *("split_verified", "short_classes", "baseline", "scope", "fitted_on", "own_data"),
    *("delta", "delta_metric", "test_difference", "test_low", "test_high", "test_p"),
    *("test_p_holm", "test_conditional", "test_seeds"),
)
_OF_RECORDS = (
    *("label", "seed", "status", "error", "key", "trained", "stored", "images_seen", "steps"),
    *("peak_memory_mb", "billed_seconds", "elapsed_seconds"),
)
# Words of `--columns` and `--sort`, and their columns in CSV.
_OF_OPTIONS = ("trained", "billed", "peak", "trained_params", "curve", "schedule")
FIXED = frozenset(
    {
        *(field.name for field in fields(RunSpec)),
        *(*CONDITIONS, *_OF_TABLES, *_OF_RECORDS, *_OF_OPTIONS),
    }
)


def taken(name: str, metrics: Iterable[str]) -> bool:
    """True if a column has this name: a fixed one, or one beside those of `metrics`."""
    return name in FIXED or name in {
        f"{stem}{ending}" for stem in (*metrics, "delta") for ending in BESIDE
    }
