"""Peak memory of a piece of work: `PeakMemory`, from the device's allocator or the resident set.

Results that earlier cells cached for a backbone and this work did not use are subtracted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from fewshot_bench.profiling.once import idle_bytes
from fewshot_bench.utils import devices
from fewshot_bench.utils.memory import give_back_memory


class PeakMemory:
    """Peak memory of a piece of work in MiB: of the device's allocator, or else the resident set.

    It is also the resident set for an accelerator that does not count its memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.megabytes = 0.0
        self._is_of_host = False

    def origin(self) -> dict[str, str]:
        """An entry of the record if the peak is not that of the device that computed."""
        is_odd = self._is_of_host and devices.is_accelerator(self._device)
        return {"peak_memory_of": "host"} if is_odd else {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Measure the peak inside the context."""
        with idle_bytes(self._device) as idle:
            if devices.reset_peak(self._device):
                try:
                    yield
                finally:
                    peak = devices.peak_bytes(self._device) - idle()
                    self.megabytes = peak / 2**20
                return
            self._is_of_host = True
            with _sample_resident_set() as largest:
                yield
            self.megabytes = (largest[0] - idle()) / 2**20


@contextmanager
def _sample_resident_set(interval: float = 0.02) -> Iterator[list[float]]:
    """The largest resident set in bytes, sampled every `interval` seconds and at both ends."""
    import psutil

    give_back_memory()
    done, process = threading.Event(), psutil.Process()
    peak = [float(process.memory_info().rss)]

    def look() -> None:
        # A plug-in may close descriptors that it did not open.
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            peak[0] = max(peak[0], float(process.memory_info().rss))

    def watch() -> None:
        while not done.wait(interval):
            look()

    watcher = threading.Thread(target=watch, name="fsbench-memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        look()
