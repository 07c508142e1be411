"""Image encodings that the cells of a run shared, computed from their records.

`encodings_saved` returns the line that `fsbench run` prints. Cells that share a fit are left out,
since each of their records is billed for the whole fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fewshot_bench.api.record import Record


def encodings_saved(records: Sequence[Record]) -> str:
    """Line comparing images encoded and billed for a frozen encoder; empty if none was shared."""
    fits = Counter(record.spec.fit_key() for record in records)
    computed = billed = adapted = 0
    for record in records:
        work = record.footprint.get("work")
        if work is None or fits[record.spec.fit_key()] > 1:
            continue
        frozen = record.footprint["images_encoded"]
        trained = work["billed"]["images"] - frozen
        billed += frozen
        adapted += trained
        computed += work["computed"]["images"] - trained
    if billed <= computed:
        return ""
    line = f"frozen encoder: {computed:,} images encoded instead of {billed:,}"
    line += f", {billed / computed:.1f} times fewer" if computed else ""
    return f"{line}; through adapted encoders: {adapted:,}" if adapted else line
