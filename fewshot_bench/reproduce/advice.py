"""What to do about cells that are not there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from fewshot_bench.reproduce.model import Line


def advice(lines: Sequence[Line], problems: Mapping[str, str], command: str) -> list[str]:
    """One line per thing to do; command: the call that would run what is missing."""
    without: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        if not line.average:
            without[line.status].add(line.dataset)
    unready = [name for name in problems if name in without["missing"]]
    ready = {name for status in ("missing", "incomplete") for name in without[status]}
    found = []
    if ready - set(unready):
        found.append(f"to run what is missing: {command}")
    if unready:
        found.append(
            f"no data for {', '.join(unready)}: 'fsbench data prepare {unready[0]}' fetches a data "
            "set or says how to get it"
        )
    if without["failed"]:
        found.append(f"to try failed cells again: {command} --retry-failed")
    if without["mixed"]:
        found.append("mixed cells: keep one kind of records in the store, or use another --store")
    return found
