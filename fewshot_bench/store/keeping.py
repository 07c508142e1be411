"""The choice of what is kept of a cell's logits, and how much disk it takes.

`chosen` resolves what was asked for. It changes no number: statistics of every query are always
kept, computed from the logits in full precision.
"""

from __future__ import annotations

from fewshot_bench.utils.errors import unknown

# All logits in 16 bits; the most probable classes alone; nothing beside the statistics.
ALL, TOP, NONE = "all", "top", "none"
KEPT = (ALL, TOP, NONE)
# The name under which the environment of a record says it.
ASKED = "kept_logits"
# The options of the next step where all logits are missed.
KEEP_ALL = f"--keep-logits {ALL} --force"
# All logits are kept by default up to so many of them: 16 MB. SUN397 has 7.9 million, ImageNet 50.
MOST_LOGITS = 8_000_000
TOP_CLASSES = 5
# Bytes of one query: its statistics, its name as long as names usually are, each of its top
# classes, each logit. And of what else is in the file.
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
    """The bytes on disk of one cell beside its record, at most unless names are very long."""
    kept = chosen(asked, queries, classes)
    row = _STATISTICS + _NAME
    row += _TOP * min(classes, TOP_CLASSES) if kept != NONE else 0
    row += _LOGIT * classes if kept == ALL else 0
    return _FILE + queries * row
