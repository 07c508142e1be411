"""Background threads that read, decode and resize images; results are always in order.

`spread` maps over single images, `Ahead` prefetches batches.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, NoReturn, TypeVar

DEPTH = 4
SPREAD = 32
In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


THREADS = max(2, min(16, cores()))


@functools.cache
def workers(threads: int) -> ThreadPoolExecutor:
    """The thread pool for single images."""
    return ThreadPoolExecutor(threads, "fsbench-images")


@functools.cache
def _assemblers() -> ThreadPoolExecutor:
    """The thread pool that assembles batches; separate from `workers`, on which it waits."""
    return ThreadPoolExecutor(DEPTH, "fsbench-batches")


if hasattr(os, "register_at_fork"):
    # A fork has none of the threads: work that is given to their pools would wait.
    os.register_at_fork(after_in_child=workers.cache_clear)
    os.register_at_fork(after_in_child=_assemblers.cache_clear)


def spread(
    work: Callable[[In], Out], values: Sequence[In], threads: int = THREADS, size: int = SPREAD
) -> list[Out]:
    """Apply `work` to all values in threads; results in order, raises the first error in order.

    A thread takes `size` values at a time; values that fit into one part run in this thread.
    """
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    if len(parts) < 2:
        return [work(value) for value in values]
    results = workers(threads).map(lambda part: [work(value) for value in part], parts)
    return [result for part in results for result in part]


class Ahead(Iterator[Out], Generic[Out]):
    """Iterate over job results in order, with up to `depth` jobs running ahead in threads.

    Jobs are taken from `jobs` in the thread of the caller. late: True if the last result was not
    ready when it was asked for.
    """

    def __init__(self, jobs: Iterable[Callable[[], Out]], depth: int = DEPTH) -> None:
        self._jobs = iter(jobs)
        self._depth = depth
        self._pending: deque[Future[Out]] = deque()
        self._process = os.getpid()
        self.late = True

    def __next__(self) -> Out:
        if not self._depth:
            return next(self._jobs)()
        self._fill(self._depth + 1)
        if not self._pending:
            raise StopIteration
        first = self._pending.popleft()
        self.late = not first.done()
        result = first.result()
        self._fill(self._depth)
        return result

    def _fill(self, count: int) -> None:
        while len(self._pending) < count:
            try:
                job: Any = next(self._jobs, None)
            except Exception as error:
                # Raised in its place, after the results before it.
                job, self._jobs = functools.partial(_raise, error), iter(())
            if job is None:
                return
            self._pending.append(_assemblers().submit(job))

    def close(self) -> None:
        """Cancel the pending jobs, and wait for those that run."""
        running = [future for future in self._pending if not future.cancel()]
        self._pending.clear()
        # A fork has none of the threads.
        if os.getpid() == self._process:
            wait(running)


def _raise(error: Exception) -> NoReturn:
    raise error
