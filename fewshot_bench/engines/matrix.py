"""Run a matrix of cells: plan it, check it, run what the store lacks, report.

`run_matrix` and `run_plan` are the entry points for the command line and the library. However a run
ends, the records that it has stored stay, and the next run resumes with the missing cells.
`encodings_saved` is the line on what cells shared, computed from their records.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.image_facts import Overlap, overlap_texts, overlaps
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.choice import ChosenEngine, hook_environment
from fewshot_bench.engines.reporting import Reporter
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import FEW, counted, limited

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.engines.base import Engine, EngineSetup, Settings
    from fewshot_bench.runner.needs import Needs
    from fewshot_bench.runner.request import Plan, Request
    from fewshot_bench.runner.resuming import Code, Resume
    from fewshot_bench.store.store import Store


INTERRUPTED = 130


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of running a plan.

    failed: number of cells that failed, also in earlier runs, or whose new records are gone.
    inapplicable: True if no cell can have a result, as with a method that needs a part that the
    backbone lacks.
    """

    plan: Plan
    failed: int = 0
    interrupted: bool = False
    inapplicable: bool = False

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        if self.interrupted:
            return INTERRUPTED
        if self.plan.problems:
            return DataMissingError.exit_code
        if self.inapplicable:
            return UsageError.exit_code
        return 1 if self.failed else 0


def run_matrix(request: Request, reporter: Reporter) -> RunOutcome:
    """Expand, check, run and report. UsageError for unknown names, before anything runs."""
    from fewshot_bench.runner.request import expand

    return run_plan(expand(request), request, reporter)


def run_plan(plan: Plan, request: Request, reporter: Reporter) -> RunOutcome:
    """Run the cells of a plan that the store of the request lacks, and report."""
    engines = ChosenEngine(request)
    variables = engines.worker_environment(request.store)
    reporter.info(request.summary())
    for info in registry().plugins:
        # Those of `-m all` are named among what is left out.
        if info.error and info.problem not in plan.left_out:
            reporter.warning(info.problem)
    _report_unusable(plan.problems, reporter)
    with _opened(request.store, dry_run=request.dry_run) as store:
        return _run_in(store, plan, engines, variables, reporter)


def _run_in(
    store: Store,
    plan: Plan,
    engines: ChosenEngine,
    variables: Mapping[str, Mapping[str, str]],
    reporter: Reporter,
) -> RunOutcome:
    from fewshot_bench.engines.base import EngineSetup, StoreSnapshot
    from fewshot_bench.runner.image_state import ImageState
    from fewshot_bench.runner.preflight import keep_splits
    from fewshot_bench.runner.resuming import Code, resume
    from fewshot_bench.store.kept_models import models_line
    from fewshot_bench.store.predictions import Outcomes

    request = engines.request
    # Snapshot the store first, so that records written by other runs from here on are noticed.
    current().step("looking for results")
    before = StoreSnapshot.of(store, plan.cells)
    installed = Code.of(cell.method for cell in plan.cells)
    images = ImageState(plan.datasets, store.path)
    state = resume(
        plan,
        store,
        installed,
        images,
        force=request.force,
        retry_failed=request.retry_failed,
        keep_stale=request.keep_stale,
    )
    before = before.only(state.todo)
    _report_unknown_images(images.problems, reporter)
    # Workers skip cells that are done, unless `force` is set.
    force = request.force or state.again
    cells = len(state.todo)
    settings = engines.settings(force, installed.identity(), variables, cells=cells)
    setup = EngineSetup(store, settings, before, request.engine_options, reporter.notice)
    if request.dry_run:
        current().step("estimating time and room")
        _dry_run(plan, state, request, setup, reporter)
        engine = engines.build(setup)
        with engines.blaming():
            preview = engine.preview(len(state.todo))
        if preview:
            reporter.info(preview)
        return RunOutcome(plan)
    if state.todo and engines.here:
        from fewshot_bench.backbones import loading

        loading.check_weights(request.backbone)
    _check_room(plan, state, store, engines, settings, reporter)
    with hook_environment(store.path, variables), engines.running(setup) as engine:
        with engines.blaming():
            engine.warm(len(state.todo))
        current().step("checking images")
        _drop_unreadable(plan, state, reporter)
        keep_splits(plan.datasets, plan.keep_split, but=plan.problems)
        _announce(plan, state, store, reporter)
        shared = _report_overlaps(images.overlaps(state.todo), reporter)
        interrupted, finished = _run(plan, state, engines, engine, store, reporter)
    failed = len(state.failed) + sum(record.status == "failed" for record in finished)
    failed += _report_gone(finished, store, reporter)
    try:
        _report_failures(state, finished, store, reporter, whole=request.traceback)
        _report_plugins(store, reporter)
        _report_other_code(installed, finished, reporter)
        _report_overlaps(overlaps(finished), reporter, shared)
    except KeyboardInterrupt:
        # The cells are computed and kept: only their report is cut short.
        reporter.notice(_stopped(plan, state, finished))
        return RunOutcome(plan, failed, interrupted=True)
    # Reading the new logits is still fast: prepare outcomes now, for `compare` and `report`.
    with suppress(KeyboardInterrupt):
        Outcomes(store).prepare([] if interrupted else finished)
    _forget_claims(state, finished, store)
    if settings.keep_models and finished:
        reporter.info(f"models: {models_line(finished)}")
    if saved := encodings_saved(finished):
        reporter.info(saved)
    if not interrupted:
        engines.refuse_less(state.todo, finished)
        if state.todo or state.done:
            reporter.results(request.store)
    nothing = not interrupted and _report_inapplicable(state, finished, store, reporter)
    return RunOutcome(plan, failed, interrupted, nothing)


@contextmanager
def _opened(folder: Path, *, dry_run: bool) -> Iterator[Store]:
    """The store, not created by a dry run; absolute, since a plug-in may change directory.

    A run that is refused or has no data leaves no empty folders behind.
    """
    from fewshot_bench.store.store import Store

    store = Store(folder.absolute())
    if dry_run and any(part.is_file() for part in (store.path, *store.path.parents)):
        raise UsageError(f"store '{folder}' is not a folder; choose another store")
    made = [] if dry_run else store.create()
    try:
        yield store
    finally:
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def _dry_run(
    plan: Plan, state: Resume, request: Request, setup: EngineSetup, reporter: Reporter
) -> None:
    _announce(plan, state, setup.store, reporter)
    if state.todo:
        workers = min(setup.settings.workers, len(state.todo))
        needed = _needs(plan, state, setup.settings)
        for line in needed.lines(workers, setup.store.path, setup.settings.feature_budget):
            reporter.info(line)
        for line in _time_lines(plan, state, setup, request, workers):
            reporter.info(line)
    _announce_weights(request.backbone, reporter)


def _time_lines(
    plan: Plan, state: Resume, setup: EngineSetup, request: Request, workers: int
) -> Iterator[str]:
    from fewshot_bench.engines.expected_time import Machine, lines

    cards = len(setup.settings.devices) if request.device != "cpu" else 0
    machine = Machine(cards, -(-(os.cpu_count() or 1) // max(cards, 1)))
    return lines(state.todo, plan.datasets, setup.store.records(), machine, workers)


def _needs(plan: Plan, state: Resume, settings: Settings) -> Needs:
    from fewshot_bench.runner.needs import needs

    return needs(state.todo, plan.datasets, settings.keep_logits)


def _check_room(
    plan: Plan,
    state: Resume,
    store: Store,
    engines: ChosenEngine,
    settings: Settings,
    reporter: Reporter,
) -> None:
    """NoRoomError if disk or memory cannot hold the run; reports what will be tight.

    StoreError for a folder that results go into and that cannot be written.
    """
    from fewshot_bench.runner import preflight as room

    if state.todo:
        store.check_writable(state.todo, _folders(state, store, settings))
        needed = _needs(plan, state, settings)
        models = _models(state, store, reporter) if settings.keep_models else 0
        room.check_disk(store.path, needed.results + models)
        for line in needed.shrunk(store.path, settings.feature_budget):
            reporter.info(f"note: {line}")
        _shrink_features(store, settings, reporter)
        if engines.here:
            workers = min(settings.workers, len(state.todo))
            room.check_memory(workers, needed.least, len(settings.devices))
            if tight := room.tight_memory(workers, needed.worker):
                reporter.info(f"note: {tight}")


def _folders(state: Resume, store: Store, settings: Settings) -> list[Path]:
    """Folders of the store that the run writes to besides those of records."""
    from fewshot_bench.store.kept_models import MODELS, model_folder
    from fewshot_bench.store.leases import FOLDER

    found = [store.path / FOLDER]
    if settings.keep_models:
        found += [store.path / MODELS]
        found += [model_folder(store.path, cell.key()) for cell in state.todo]
    return found


def _shrink_features(store: Store, settings: Settings, reporter: Reporter) -> None:
    """Remove least recently used features of earlier runs that are beyond the budget.

    A warning if none can be kept: every worker then encodes its own.
    """
    from fewshot_bench.images.feature_store import FeatureStore
    from fewshot_bench.utils.cache_dir import FEATURES, folder_of
    from fewshot_bench.utils.text import size_text

    folder = folder_of(FEATURES, store.path)
    assert folder is not None
    features = FeatureStore(folder, lambda: settings.feature_budget)
    if settings.feature_budget != 0 and (why := features.obstacle()):
        reporter.warning(f"features are not kept in '{folder}', every worker makes its own: {why}")
    if removed := features.shrink():
        reporter.info(
            f"note: features: {size_text(removed)} of earlier runs were beyond the budget and are "
            "removed"
        )


def _models(state: Resume, store: Store, reporter: Reporter) -> int:
    """Bytes for the cells' models, estimated from stored models; reports methods without any."""
    from fewshot_bench.store.kept_models import expected_bytes
    from fewshot_bench.utils.text import size_text

    size, unknown = expected_bytes((cell.method for cell in state.todo), store.records())
    if size:
        reporter.info(f"models: up to {size_text(size)} of disk, as those in the store")
    if unknown:
        reporter.info(
            f"models: no model of {', '.join(unknown)} is in the store yet, so that their size is "
            "not known"
        )
    return size


def _drop_unreadable(plan: Plan, state: Resume, reporter: Reporter) -> None:
    """Report data sets with missing or corrupt images, and drop their cells from those to run."""
    from fewshot_bench.runner.preflight import check_images

    bad = check_images(plan.datasets, state.todo, reporter.warning, reporter.info)
    _report_unusable(bad, reporter)
    plan.problems.update(bad)
    state.todo[:] = [cell for cell in state.todo if not {cell.dataset, cell.target} & set(bad)]


def _announce(plan: Plan, state: Resume, store: Store, reporter: Reporter) -> None:
    from fewshot_bench.runner.preflight import long_prompts
    from fewshot_bench.runner.variants import published_lines
    from fewshot_bench.splits.short_classes import short_lines

    for reason in plan.left_out.values():
        reporter.warning(f"left out: {reason}")
    for damage in store.damaged:
        reporter.warning(f"damaged, not used: {damage}")
    for line in long_prompts(plan.datasets, state.todo):
        reporter.warning(line)
    for line in (*short_lines(plan.cells, plan.datasets), *published_lines(plan.cells)):
        reporter.info(f"note: {line}")
    for name, dataset in plan.datasets.items():
        for line in dataset.card().left_out:
            reporter.info(f"{name}: {line}")
    if plan.problems and not (state.todo or state.done or state.failed):
        return
    failed = f", {len(state.failed)} failed before (--retry-failed)" if state.failed else ""
    for line in state.about_stale():
        reporter.info(line)
    cells = "1 cell" if len(plan.cells) == 1 else f"{len(plan.cells)} cells"
    reporter.info(f"{cells}: {len(state.done)} done already, {len(state.todo)} to run{failed}")


def _announce_weights(backbone: str, reporter: Reporter) -> None:
    """Report missing weights in a dry run, which contacts no other machine."""
    from fewshot_bench.backbones import loading

    if loading.needs_fetching(backbone):
        reporter.info(f"the weights of {backbone} are not on this machine: to be fetched")


def _run(
    plan: Plan,
    state: Resume,
    engines: ChosenEngine,
    engine: Engine,
    store: Store,
    reporter: Reporter,
) -> tuple[bool, list[Record]]:
    """Run the engine; returns True if interrupted, and the records received."""
    finished: list[Record] = []
    current().step(f"starting {counted(min(engine.workers, len(state.todo)), 'worker')}")
    try:
        with reporter.progress(state.todo, engine.workers) as shown:
            for record in engines.records(engine, state.todo, shown.inside, store):
                shown.finish(record)
                finished.append(record)
    except KeyboardInterrupt:
        reporter.notice(_stopped(plan, state, finished))
        return True, finished
    return False, finished


def _stopped(plan: Plan, state: Resume, finished: Sequence[Record]) -> str:
    return (
        f"stopped: {len(state.done) + len(finished)} of {len(plan.cells)} cells are done and "
        "kept; run the same command again to continue"
    )


def _report_failures(
    state: Resume, finished: Sequence[Record], store: Store, reporter: Reporter, *, whole: bool
) -> None:
    """Report why cells failed: in this run, and in earlier runs if they were not retried."""
    from fewshot_bench.engines.failures import failure_lines

    before = [store.get(cell.key()) for cell in state.failed]
    reporter.failures(failure_lines([*filter(None, before), *finished], store, whole=whole))


def _report_gone(finished: Sequence[Record], store: Store, reporter: Reporter) -> int:
    """Report results of this run that are not in the store any more; their number."""
    results = [record.spec.key() for record in finished if record.status != "failed"]
    gone = sum(store.stamp(key) is None for key in results)
    if gone:
        reporter.warning(
            f"{gone} of {len(results)} results are no longer in '{store.path}', which was moved or "
            "emptied during the run: bring them back with fsbench store merge FOLDER --store "
            f"{shlex.quote(str(store.path))}, or run the same command again"
        )
    return gone


def _report_inapplicable(
    state: Resume, finished: Sequence[Record], store: Store, reporter: Reporter
) -> bool:
    """Report that all cells are n/a, if so; True in that case: the request gives no number."""
    reasons: dict[str, None] = {}
    for record in chain(finished, (store.get(cell.key()) for cell in [*state.done, *state.failed])):
        if record is None or record.status != "inapplicable":
            return False
        reasons[f"{record.spec.label}: {(record.error or {}).get('message')}"] = None
    if reasons:
        reporter.warning(f"all cells are n/a, there is no result: {limited(list(reasons), FEW)}")
    return bool(reasons)


def _report_other_code(code: Code, finished: Sequence[Record], reporter: Reporter) -> None:
    """Report cells whose code was edited during the run, or computed elsewhere by older code."""
    text = code.about(finished)
    if text:
        reporter.warning(text)


def _report_plugins(store: Store, reporter: Reporter) -> None:
    """Report the warnings of plug-ins (`run_warnings`)."""
    found = registry().call(
        "run_warnings", lambda _, failure: reporter.warning(str(failure)), store=store.path
    )
    for text in chain.from_iterable(texts for _, texts in found):
        reporter.warning(text)


def _report_unusable(problems: Mapping[str, str], reporter: Reporter) -> None:
    for problem in problems.values():
        reporter.unusable(problem)


def _report_unknown_images(problems: Mapping[str, str], reporter: Reporter) -> None:
    for name, problem in problems.items():
        reporter.warning(
            f"whether images of {name} changed since cells were computed is not known: {problem}"
        )


def _report_overlaps(
    found: Sequence[Overlap], reporter: Reporter, reported: Sequence[str] = ()
) -> Sequence[str]:
    """Report data sets whose test images are among training images, unless already reported."""
    texts = overlap_texts(found)
    for name, text in texts.items():
        if name not in reported:
            reporter.warning(text)
    return list(texts)


def _forget_claims(state: Resume, finished: Sequence[Record], store: Store) -> None:
    """Remove the claims of a killed run on settled cells."""
    from fewshot_bench.store.leases import Leases

    settled = [*state.done, *(record.spec for record in finished)]
    Leases(store, "").forget(cell.fit_key() for cell in settled)


def encodings_saved(records: Sequence[Record]) -> str:
    """Line comparing images encoded and billed for a frozen encoder; empty if none was shared."""
    fits = Counter(record.spec.fit_key() for record in records)
    computed = billed = adapted = 0
    for record in records:
        work = record.footprint.get("work")
        if work is None or fits[record.spec.fit_key()] > 1 or not record.footprint["metered"]:
            continue
        frozen = record.footprint["images_encoded"]
        trained = work["billed"]["images"] - frozen
        billed += frozen
        adapted += trained
        computed += work["computed"]["images"] - trained
    if billed <= computed:
        return ""
    line = f"frozen encoder: {computed:,} images encoded instead of {billed:,}"
    line += f", {billed / computed:.1f} times fewer" if computed else ""
    return f"{line}; through adapted encoders: {adapted:,}" if adapted else line
