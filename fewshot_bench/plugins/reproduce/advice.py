"""Next steps for missing cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from fewshot_bench.plugins.reproduce.model import Line


def advice(lines: Sequence[Line], absent: Collection[str], command: str) -> list[str]:
    """One line per thing to do.

    absent: data sets without data. command: the call that would run what is missing.
    """
    without: defaultdict[str, set[str]] = defaultdict(set)
    for line in lines:
        if not line.average:
            without[line.status].add(line.dataset)
    unready = [name for name in absent if name in without["missing"]]
    ready = {name for status in ("missing", "incomplete") for name in without[status]}
    found = []
    if ready - set(unready):
        found.append(f"to run what is missing: {command}")
    if unready:
        found.append(no_data(unready))
    if without["failed"]:
        found.append(f"to try failed cells again: {command} --retry-failed")
    if without["mixed"]:
        found.append("mixed cells: keep one kind of records in the store, or use another --store")
    if any(line.status == "mixed" and "code" in line.reason for line in lines):
        found.append(f"to compute again what other code has computed: {command}")
    return found


def no_data(names: Sequence[str]) -> str:
    """Next steps for missing data sets."""
    return (
        f"no data for {', '.join(names)}: 'fsbench data prepare {names[0]}' fetches a data set or "
        "says how to get it"
    )
