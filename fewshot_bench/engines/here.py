"""The engine `here`: cells one after another in the process that asks, for tests and debugging.

No worker, no label process, no claim in the store, nothing tried again. What a method prints is
seen at once, its child processes are left alone, and a debugger has the terminal. Logits and
metrics are those of the engine `local`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import importing
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import (
    HOOK_SECONDS,
    Engine,
    EngineError,
    EngineSetup,
    Group,
    Progress,
    Settings,
    StoreSnapshot,
    by_fit,
    store_failure,
)
from fewshot_bench.engines.label_process import with_wall_time
from fewshot_bench.engines.local import HookCalls
from fewshot_bench.engines.process import Points
from fewshot_bench.runner.examiner import Examiner
from fewshot_bench.runner.run import run_group
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_methods import adopt_methods
from fewshot_bench.store.store import Store
from fewshot_bench.utils import determinism
from fewshot_bench.utils.cache_dir import FEATURES, folder_of, restore_sharing
from fewshot_bench.utils.environment import set_variables
from fewshot_bench.utils.errors import UsageError

# The error by which a debugger ends the code that it stopped in.
QUIT = "BdbQuit"
# Key of the option by which a debugged run gives the context of its cell (`HereEngine.around`).
AROUND = "around"


class CellError(Exception):
    """A cell ended with an error, which is the cause of this one."""


@dataclass
class HereEngine(Engine):
    """Runs cells in this process; what that changes in it is undone by `close`.

    around: the context of the one cell of a debugged run, which raises CellError for an error or an
    interrupt and then stores nothing; plug-ins do not hear of it.
    """

    store: Store
    settings: Settings = field(default_factory=Settings)
    before: StoreSnapshot | None = None
    around: AbstractContextManager[object] | None = None
    say: Callable[[str], None] = lambda text: None
    _opened: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        if self.settings.timeout is not None:
            raise UsageError("--timeout: engine 'here' cannot end its own process; leave it out")
        self._hooks = HookCalls(self.store.path, self.settings.variables)

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        """Compute the cells in their order by fit; yields each record once it is stored."""
        before = self.before or StoreSnapshot.of(self.store, cells)
        adopt_methods(self.store.path, cells)
        self._opened.enter_context(_as_in_a_worker(self.settings))
        device, *others = self.settings.devices
        if others:
            self.say(f"engine 'here' uses {device} alone")
        models = self.store.path if self.settings.keep_models else None
        session = Session(
            folder_of(FEATURES, self.store.path),
            device,
            Examiner(self.store.path),
            models,
            foreground=True,
            raises=self.around is not None,
        )
        for group in by_fit(cells):
            newer = [before.new_record(cell) for cell in group]
            yield from filter(None, newer)
            left = [cell for cell, record in zip(group, newer, strict=True) if record is None]
            if left:
                yield from self._compute(left, session, progress)
        self._hooks.wait(HOOK_SECONDS)

    def _compute(self, cells: Group, session: Session, progress: Progress) -> Iterator[Record]:
        with self._raising():
            # Loading the backbone is not billed.
            session.backbone(cells[0])
        left = iter(cells)
        cell: RunSpec | None = cells[0]

        def listen(points: Points) -> None:
            if cell is not None and self.around is None:
                self._hooks.log(cell, points)

        group = run_group(cells, session, lambda *at: progress(cells[0], *at), listener=listen)
        with closing(group) as outcomes:
            while (cell := next(left, None)) is not None:
                began = time.monotonic()
                if self.around is None:
                    self._hooks.start(cell)
                with self._raising(), self.around or nullcontext():
                    outcome = next(outcomes)
                record = outcome.record
                if (record.error or {}).get("type") == QUIT:
                    raise KeyboardInterrupt
                if record.transient:
                    record = store_failure(self.store, record, outcome.log)
                else:
                    record = with_wall_time(record, time.monotonic() - began)
                    result = outcome.answers, outcome.ids, self.settings.keep_logits
                    record = self.store.write(record, *result, outcome.log)
                if self.around is None:
                    self._hooks.finish(record)
                yield record
                if record.device_fault:
                    raise EngineError(
                        f"{record.device_fault}: nothing can be computed on the device in this "
                        "process any more; run the same command again to continue"
                    )
                if record.uncaptured:
                    raise EngineError((record.error or {})["message"])

    @contextmanager
    def _raising(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self.around is None:
                raise
            raise CellError from error

    def close(self) -> None:
        """Undo what running cells changed in this process."""
        self._opened.close()
        self._hooks.stop()


@contextmanager
def _as_in_a_worker(settings: Settings) -> Iterator[None]:
    """Variables, threads and settings of torch as in a worker; afterwards they are as before."""
    environment = replace(settings, slots=1, devices=settings.devices[:1]).environment()
    for given in settings.variables.values():
        environment |= given
    threads = torch.get_num_threads()
    with set_variables(environment), determinism.restore(), restore_sharing(), importing():
        torch.set_num_threads(settings.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def build(setup: EngineSetup) -> HereEngine:
    """Build the engine `here`."""
    around = setup.options.get(AROUND)
    return HereEngine(setup.store, setup.settings, setup.before, around, setup.say)
