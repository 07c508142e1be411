"""The choice of how much of a cell's logits is kept, and the disk space that it takes.

`chosen` resolves the value of --keep-logits. The choice changes no result: statistics of every
query are always kept, computed from the logits in full precision.
"""

from __future__ import annotations

from fewshot_bench.utils.errors import unknown

# All logits as float16; the most probable classes only; the statistics only.
ALL, TOP, NONE = "all", "top", "none"
KEPT = (ALL, TOP, NONE)
# Key of the choice in the environment of a record.
ASKED = "kept_logits"
# The options to suggest where all logits are needed but were not kept.
KEEP_ALL = f"--keep-logits {ALL} --force"
# Up to this many logits (16 MB), all are kept by default. Millions: SUN397 7.9, ImageNet 50.
MOST_LOGITS = 8_000_000
TOP_CLASSES = 5
# Bytes per query: its statistics, a name of usual length, each of its top classes, each logit.
# And bytes of everything else in the file.
_STATISTICS, _NAME, _TOP, _LOGIT, _FILE = 40, 64, 8, 2, 2_048


def chosen(asked: str, queries: int, classes: int) -> str:
    """One of `KEPT` for (queries, classes) logits; asked: one of them, empty for the default."""
    if asked:
        return checked(asked)
    return ALL if queries * classes <= MOST_LOGITS else TOP


def checked(asked: str) -> str:
    """One of `KEPT`, or empty for the default; UsageError for anything else."""
    if asked and asked not in KEPT:
        raise unknown("value of --keep-logits", asked, KEPT, "fsbench run --help")
    return asked


def kept_bytes(queries: int, classes: int, asked: str = "") -> int:
    """Upper bound of one cell's bytes on disk beside its record, unless names are very long."""
    kept = chosen(asked, queries, classes)
    row = _STATISTICS + _NAME
    row += _TOP * min(classes, TOP_CLASSES) if kept != NONE else 0
    row += _LOGIT * classes if kept == ALL else 0
    return _FILE + queries * row
