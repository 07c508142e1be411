"""The wall time of a cell as taken outside the process of the method: `with_wall_time`."""

from __future__ import annotations

from dataclasses import replace

from fewshot_bench.api.record import TIME, Record

# Seconds that the harness itself may need for a cell: to digest the weights of a large backbone,
# and to keep a model.
OWN_SECONDS = 30.0


def with_wall_time(record: Record, seconds: float) -> Record:
    """The record with the seconds from the request of its cell to its answers.

    An incident if it accounts for less than half of them, and for many less.
    """
    if record.status != "done":
        return record
    record = replace(record, timings={**record.timings, "wall_seconds": round(seconds, 6)})
    elapsed = record.timings.get("elapsed_seconds") or 0.0
    if seconds - elapsed <= max(OWN_SECONDS, seconds / 2):
        return record
    text = (
        f"{record.spec.method} took {seconds:,.0f} s by the clock of another process, and its "
        f"record accounts for {elapsed:,.0f} s"
    )
    return replace(record, incidents=(*record.incidents, {"kind": TIME, "text": text}))
