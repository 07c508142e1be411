"""Names that columns of tables and data frames have already, so that no metric may take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from fewshot_bench.api.spec import CONDITIONS, RunSpec

# Columns of the flat table (`store/flat_table.py`) by name: a field of records, and an entry of it.
# Columns of the specification are named as its fields, those of metrics as the metrics.
ENTRIES: Mapping[str, tuple[str, str]] = {
    "split_digest": ("split", "digest"),
    "split_verified": ("split", "verified"),
    "images": ("split", "images"),
    "test_images": ("split", "test_images"),
    "train": ("split", "train"),
    "validation": ("split", "val"),
    "test": ("split", "test"),
    "trained": ("footprint", "trained"),
    "stored": ("footprint", "stored"),
    "backbone_parameters": ("footprint", "backbone"),
    "peak_memory_mb": ("footprint", "peak_memory_mb"),
    "images_seen": ("footprint", "images_seen"),
    "steps": ("footprint", "steps"),
    "billed_seconds": ("timings", "billed_seconds"),
    "elapsed_seconds": ("timings", "elapsed_seconds"),
    "device_name": ("environment", "device_name"),
    "threads": ("environment", "threads"),
    "fewshot_bench": ("environment", "fewshot_bench"),
    "python": ("environment", "python"),
    "weights_digest": ("environment", "weights_digest"),
    "code": ("environment", "code.digest"),
    "logits_digest": ("digests", "logits"),
    "record_digest": ("digests", "record"),
}
# Endings of the columns that stand beside a metric's own in CSV, JSON and data frames.
BESIDE = ("_mean", "_ci95", "_n", "_min", "_max")
# tests/api/test_metric_names.py compares these with the columns that are written.
_OF_TABLES = (
    *("n", "n_seeds", "seeds", "missing_seeds", "failed", "errors", "reason", "marks"),
    *("split_verified", "short_classes", "baseline", "scope", "fitted_on", "own_data"),
    *("delta", "delta_metric", "test_difference", "test_low", "test_high", "test_p"),
    *("test_p_holm", "test_conditional", "test_seeds"),
)
_OF_RECORDS = ("label", "seed", "status", "error", "curves", "key", *ENTRIES)
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
