"""`profiled`: a trace of torch's profiler, and the operators that cost most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fewshot_bench.utils.devices import is_accelerator

DEAREST = 10


@contextmanager
def profiled(file: Path, device: str, say: Callable[[str], None]) -> Iterator[None]:
    """Profile what runs inside; then write the trace, in Chrome's format, and say what was dear.

    Of an error inside nothing is written. Needs memory for every operator that runs.
    """
    activities = {torch.profiler.ProfilerActivity.CPU}
    if is_accelerator(torch.device(device)):
        activities |= torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
    with torch.profiler.profile(activities=activities) as profile:
        yield
    profile.export_chrome_trace(str(file))
    for line in _list_dearest(profile):
        say(line)
    say(f"trace: {file} (open it in https://ui.perfetto.dev or chrome://tracing)")


def _list_dearest(profile: torch.profiler.profile) -> Iterator[str]:
    """A table of the operators with most time of their own, on the accelerator if it has any."""
    events = profile.key_averages()
    on_device = any(event.self_device_time_total for event in events)
    kind = "device" if on_device else "cpu"
    times = {event.key: getattr(event, f"self_{kind}_time_total") / 1000 for event in events}
    calls, total = {event.key: event.count for event in events}, sum(times.values()) or 1.0
    where = "the accelerator" if on_device else "the CPU"
    yield f"the {DEAREST} dearest operators, by time of their own on {where}:"
    yield f"{'ms':>12} {'share':>6} {'calls':>8}  operator"
    for name in sorted(times, key=lambda name: -times[name])[:DEAREST]:
        share = times[name] / total
        yield f"{times[name]:12.2f} {share:6.1%} {calls[name]:8,}  {name}"
