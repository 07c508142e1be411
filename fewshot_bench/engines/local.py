"""The local engine: one cell after another in this process, everything shared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from fewshot_bench.errors import FsbenchError
from fewshot_bench.record import Record
from fewshot_bench.registry import registry
from fewshot_bench.runner import Session, run_one
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import Store

Progress = Callable[[RunSpec, int, int], None]


def run_cells(
    cells: Sequence[RunSpec],
    store: Store,
    progress: Progress,
    *,
    device: str = "cpu",
    force: bool = False,
) -> Iterator[Record]:
    """Compute the cells in order; each record is in the store before it is yielded.

    A cell that another process finished meanwhile is read instead of computed again. StoreError
    (disk full, no permission) ends the run: what is written stays, and it can go on later.
    """
    session = Session(cache=store.path / "cache" / "features", device=device)
    hooks = registry().hooks
    for cell in cells:
        found = None if force else store.get(cell.key())
        if found is not None and found.status == "done":
            yield found
            continue
        _tell(hooks.run_started, spec=cell)
        outcome = run_one(cell, session, lambda done, total, c=cell: progress(c, done, total))
        store.write(outcome.record, outcome.logits, outcome.labels, outcome.ids)
        _tell(hooks.run_finished, record=outcome.record)
        yield outcome.record


def _tell(hook: Callable[..., object], **arguments: object) -> None:
    """Call a hook; one that fails must not cost a result, so its failure is shown and passed."""
    try:
        hook(**arguments)
    except FsbenchError:
        raise
    except Exception as error:
        print(f"a plug-in's hook failed: {type(error).__name__}: {error}", file=sys.stderr)
