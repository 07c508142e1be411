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
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from fewshot_bench.api import own_methods
from fewshot_bench.api.record import Overlap, Record, overlap_texts, overlaps
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.asking import ChosenEngine, hook_environment
from fewshot_bench.engines.reporting import Reporter
from fewshot_bench.utils.devices import CPU
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import FEW, counted, limited, option_name, size_text

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.engines.base import Engine, EngineSetup, Settings
    from fewshot_bench.runner.request import Plan, Request
    from fewshot_bench.runner.resuming import Code, Resume
    from fewshot_bench.runner.variants import Configured
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
    """Run the cells of a plan that the store of the request lacks, and report.

    A run that is refused or has no data leaves no empty folders behind.
    """
    from fewshot_bench.store.store import Store

    # Absolute, since a plug-in may change directory.
    store, chosen = Store(request.store.absolute()), ChosenEngine(request)
    variables = chosen.worker_environment(request.store)
    reporter.info(request.summary())
    for info in registry().plugins:
        # Those of `-m all` are named among what is left out.
        if info.error and info.problem not in plan.left_out:
            reporter.warning(info.problem)
    for problem in plan.problems.values():
        reporter.unusable(problem)
    if request.dry_run and any(part.is_file() for part in (store.path, *store.path.parents)):
        raise UsageError(f"store '{request.store}' is not a folder; choose another store")
    folders = [] if request.dry_run else store.create()
    try:
        return _Run(plan, request, reporter, store, chosen).run(variables)
    finally:
        for empty in folders:
            with suppress(OSError):
                empty.rmdir()


@dataclass(frozen=True)
class _Run:
    """One call: its plan, its store and whoever hears of it."""

    plan: Plan
    request: Request
    reporter: Reporter
    store: Store
    chosen: ChosenEngine

    def run(self, variables: Mapping[str, Mapping[str, str]]) -> RunOutcome:
        """Check, run what the store lacks, report."""
        from fewshot_bench.backbones import loading
        from fewshot_bench.engines.base import EngineSetup, StoreSnapshot
        from fewshot_bench.runner.preflight import keep_splits
        from fewshot_bench.runner.resuming import Code, ImageState, resume

        plan, store, chosen, asked = self.plan, self.store, self.chosen, self.request
        # Snapshot the store first, so that records written by other runs from here on are noticed.
        current().step("looking for results")
        before = StoreSnapshot.of(store, plan.cells)
        code = Code.of(cell.code_name for cell in plan.cells)
        images = ImageState(plan.datasets, store.path)
        state = resume(
            plan,
            store,
            code,
            images,
            force=asked.force,
            retry_failed=asked.retry_failed,
            keep_stale=asked.keep_stale,
        )
        for name, problem in images.problems.items():
            self.reporter.warning(
                f"whether images of {name} changed since cells were computed is not known: "
                f"{problem}"
            )
        # Workers skip cells that are done, unless `force` is set.
        force = asked.force or state.again
        settings = chosen.settings(force, code.identity(), variables, cells=len(state.todo))
        say, show = self.reporter.notice, self.reporter.output
        options = asked.engine_options
        cores = self._count_cores(settings)
        setup = EngineSetup(store, settings, before.only(state.todo), options, say, show, cores)
        if asked.dry_run:
            self._preview(state, setup)
            return RunOutcome(plan)
        if state.todo and chosen.here:
            loading.check_weights(asked.backbone)
        if state.todo:
            self._check_room(state, settings)
        self._keep_methods(code)
        with hook_environment(store.path, variables), chosen.running(setup) as engine:
            with chosen.blaming():
                engine.warm(len(state.todo))
            current().step("checking images")
            self._drop_unreadable(state)
            keep_splits(plan.datasets, plan.keep_split, but=plan.problems)
            self._announce(state)
            shared = self._report_overlaps(images.overlaps(state.todo))
            interrupted, records = self._compute(state, engine)
        failed = len(state.failed) + sum(record.status == "failed" for record in records)
        failed += self._report_gone(records)
        try:
            self._report_records(state, records, code, shared)
        except KeyboardInterrupt:
            # The cells are computed and kept: only their report is cut short.
            self._say_stopped(state, records)
            return RunOutcome(plan, failed, interrupted=True)
        return self._conclude(state, records, settings, failed, interrupted)

    def _count_cores(self, settings: Settings) -> int:
        """CPU cores for the workers of another machine: of all cells, also those that are done."""
        from fewshot_bench.engines.expected_time import count_cores

        if self.chosen.here or self.request.device == CPU:
            return settings.workers * (settings.threads or 1)
        return settings.workers * count_cores(self.plan.cells, self.plan.datasets)

    def _keep_methods(self, code: Code) -> None:
        """Write the code of methods of files into the store, from where workers import it.

        Of all methods, the files of their hyper-parameters, and what their code consists of, so
        that a later run can say what was edited.

        StoreError if it cannot be written.
        """
        from fewshot_bench.store.kept_code import keep_code
        from fewshot_bench.store.kept_files import keep_files
        from fewshot_bench.store.kept_methods import keep_methods
        from fewshot_bench.store.store import METHODS

        try:
            every = [part for cell in self.plan.cells for part in (cell, cell.lowest)]
            keep_methods(self.store.path, (cell.method for cell in every))
            keep_code(self.store.path, code.digests, code.parts)
            keep_files(self.store.path, chain.from_iterable(cell.files for cell in every))
        except OSError as error:
            raise self.store.cannot_write(self.store.path / METHODS, error) from error

    def _preview(self, state: Resume, setup: EngineSetup) -> None:
        """Print the plan of a dry run: what it would need and how long it would take."""
        from fewshot_bench.backbones import loading

        current().step("estimating time and room")
        say = self.reporter.info
        self._announce(state)
        engine = self.chosen.build(setup)
        if state.todo:
            from fewshot_bench.engines.base import by_fit
            from fewshot_bench.engines.expected_time import Machine, list_times
            from fewshot_bench.runner.preflight import compute_needs

            settings, datasets = setup.settings, self.plan.datasets
            workers = min(settings.workers, len(state.todo))
            needs = compute_needs(state.todo, datasets, settings.keep_logits)
            for line in needs.lines(workers, self.store.path, settings.feature_budget):
                say(line)
            machines = max(1, min(engine.workers // settings.workers, len(by_fit(state.todo))))
            cards = machines * len(settings.devices) if self.request.device != CPU else 0
            cores = machines * (engine.cores or os.cpu_count() or 1)
            machine, records = Machine(cards, -(-cores // max(cards, 1))), self.store.records()
            workers = min(machines * settings.workers, len(state.todo))
            for line in list_times(state.todo, datasets, records, machine, workers):
                say(line)
        backbone = self.request.backbone
        if loading.needs_fetching(backbone):
            say(f"the weights of {backbone} are not on this machine: to be fetched")
        with self.chosen.blaming():
            preview = engine.preview(len(state.todo))
        if preview:
            say(preview)

    def _check_room(self, state: Resume, settings: Settings) -> None:
        """NoRoomError if disk or memory cannot hold the run; reports what will be tight.

        StoreError for a folder that results go into and that cannot be written.
        """
        from fewshot_bench.runner import preflight
        from fewshot_bench.runner.preflight import compute_needs
        from fewshot_bench.store.kept_models import MODELS, expected_bytes, model_folder
        from fewshot_bench.store.leases import FOLDER

        path, say = self.store.path, self.reporter.info
        folders = [path / FOLDER]
        if settings.keep_models:
            folders += [path / MODELS, *(model_folder(path, cell.key()) for cell in state.todo)]
        self.store.check_writable(state.todo, folders)
        needs = compute_needs(state.todo, self.plan.datasets, settings.keep_logits)
        models = 0
        if settings.keep_models:
            methods = (cell.method for cell in state.todo)
            models, unknown = expected_bytes(methods, self.store.records())
            if models:
                say(f"models: up to {size_text(models)} of disk, as those in the store")
            if unknown:
                say(
                    f"models: no model of {', '.join(unknown)} is in the store yet, so that their "
                    "size is not known"
                )
        preflight.check_disk(path, needs.results + models)
        for line in needs.list_shrunk(path, settings.feature_budget):
            say(f"note: {line}")
        self._shrink_features(settings)
        if self.chosen.here:
            workers = min(settings.workers, len(state.todo))
            preflight.check_memory(workers, needs.least, len(settings.devices))
            if tight := preflight.tight_memory(workers, needs.worker):
                say(f"note: {tight}")

    def _shrink_features(self, settings: Settings) -> None:
        """Remove least recently used features of earlier runs that are beyond the budget.

        A warning for each folder in which nothing can be kept: every worker then makes its own.
        """
        from fewshot_bench.images.feature_files import FeatureFiles
        from fewshot_bench.utils import cache_dir

        folder = cache_dir.folder_of(cache_dir.FEATURES, self.store.path)
        assert folder is not None
        features = FeatureFiles(folder, lambda: settings.feature_budget)
        used = {"images": (cache_dir.cache_root(), cache_dir.FOLDER_VARIABLE)}
        if settings.feature_budget != 0:
            used = {"features": (folder, cache_dir.FEATURES_VARIABLE), **used}
        for kind, (place, variable) in used.items():
            if why := cache_dir.obstacle(place):
                self.reporter.warning(
                    f"{kind} are not kept in '{place}', every worker makes its own: {why}; or set "
                    f"{variable} to a folder of each machine"
                )
        if removed := features.shrink():
            self.reporter.info(
                f"note: features: {size_text(removed)} of earlier runs were beyond the budget and "
                "are removed"
            )

    def _drop_unreadable(self, state: Resume) -> None:
        """Report data sets with missing or corrupt images, and drop their cells."""
        from fewshot_bench.runner.preflight import check_images

        say = self.reporter
        bad = check_images(self.plan.datasets, state.todo, say.warning, say.info)
        for problem in bad.values():
            say.unusable(problem)
        self.plan.problems.update(bad)
        state.todo[:] = [cell for cell in state.todo if not {cell.dataset, cell.target} & set(bad)]

    def _announce(self, state: Resume) -> None:
        """Print the cells that are left out, notes, and the number of cells."""
        from fewshot_bench.runner.need import note_texts, tell_left_out
        from fewshot_bench.runner.preflight import long_prompts
        from fewshot_bench.runner.variants import note_published
        from fewshot_bench.splits.draw import short_lines

        plan, say, warn = self.plan, self.reporter.info, self.reporter.warning
        for line in from_store(self.request.methods):
            say(line)
        for own in filter(None, map(own_methods.find, {cell.method for cell in plan.cells})):
            for module in own_methods.list_searching(own.files):
                warn(
                    f"{module} of {own.name} looks for files by __file__: those that no text in it "
                    "names are not there when it runs; name them, or give them as hyper-parameters "
                    "of type Path"
                )
        for reason in plan.left_out.values():
            warn(f"left out: {reason}")
        for damage in self.store.damaged:
            warn(f"damaged, not used: {damage}")
        for line in long_prompts(plan.datasets, state.todo):
            warn(line)
        lacking = [f"left out: {line}" for line in tell_left_out(plan.lacking)]
        for line in (
            *lacking,
            *short_lines(plan.cells, plan.datasets),
            *note_published(plan.cells),
            *note_texts(plan.cells, plan.datasets),
        ):
            say(f"note: {line}")
        for name, dataset in plan.datasets.items():
            for line in dataset.card().left_out:
                say(f"{name}: {line}")
        if plan.problems and not (state.todo or state.done or state.failed):
            return
        for line in (*state.about_stale(), *state.versions):
            say(line)
        failed = f", {len(state.failed)} failed before (--retry-failed)" if state.failed else ""
        done = f"{len(state.done)} done already, {len(state.todo)} to run"
        say(f"{counted(len(plan.cells), 'cell')}: {done}{failed}")

    def _compute(self, state: Resume, engine: Engine) -> tuple[bool, list[Record]]:
        """Run the engine; returns True if interrupted, and the records received."""
        records: list[Record] = []
        workers = min(engine.workers, len(state.todo))
        current().step(f"starting {counted(workers, 'worker')}")
        try:
            with self.reporter.progress(state.todo, engine.workers) as shown:
                for record in self.chosen.records(engine, state.todo, shown.inside, self.store):
                    shown.finish(record)
                    records.append(record)
        except KeyboardInterrupt:
            self._say_stopped(state, records)
            return True, records
        return False, records

    def _say_stopped(self, state: Resume, records: Sequence[Record]) -> None:
        self.reporter.notice(
            f"stopped: {len(state.done) + len(records)} of {len(self.plan.cells)} cells are done "
            "and kept; run the same command again to continue"
        )

    def _report_gone(self, records: Sequence[Record]) -> int:
        """Report results of this run that are not in the store any more; their number."""
        results = [record.spec.key() for record in records if record.status != "failed"]
        gone = sum(self.store.stamp(key) is None for key in results)
        if gone:
            path = self.store.path
            self.reporter.warning(
                f"{gone} of {len(results)} results are no longer in '{path}', which was moved or "
                "emptied during the run: bring them back with fsbench store merge FOLDER --store "
                f"{shlex.quote(str(path))}, or run the same command again"
            )
        return gone

    def _report_records(
        self, state: Resume, records: Sequence[Record], code: Code, shared: Sequence[str]
    ) -> None:
        """Report failures, warnings of plug-ins, and cells of other code or with other images.

        shared: data sets whose overlaps were reported.
        """
        from fewshot_bench.engines.reporting import failure_lines

        warn, store = self.reporter.warning, self.store
        before = [store.get(cell.key()) for cell in state.failed]
        failures = [*filter(None, before), *records]
        self.reporter.failures(failure_lines(failures, store, whole=self.request.traceback))
        warnings = registry().call(
            "run_warnings", lambda _, failure: warn(str(failure)), store=store.path
        )
        for text in chain.from_iterable(texts for _, texts in warnings):
            warn(text)
        # Code that was edited during the run, or older code of another machine.
        if text := code.about(records):
            warn(text)
        self._report_overlaps(overlaps(records), shared)

    def _report_overlaps(
        self, shares: Sequence[Overlap], reported: Sequence[str] = ()
    ) -> Sequence[str]:
        """Report data sets whose test images are among training images, unless `reported`."""
        texts = overlap_texts(shares)
        for name, text in texts.items():
            if name not in reported:
                self.reporter.warning(text)
        return list(texts)

    def _conclude(
        self,
        state: Resume,
        records: list[Record],
        settings: Settings,
        failed: int,
        interrupted: bool,
    ) -> RunOutcome:
        from fewshot_bench.analysis.lending import allowed_by
        from fewshot_bench.store.kept_models import models_line
        from fewshot_bench.store.leases import Leases
        from fewshot_bench.store.predictions import Outcomes

        store, say = self.store, self.reporter.info
        # Reading the new logits is still fast: prepare outcomes now, for `compare` and `report`.
        with suppress(KeyboardInterrupt):
            Outcomes(store).prepare([] if interrupted else records)
        # Claims of a killed run on settled cells.
        settled = [*state.done, *(record.spec for record in records)]
        Leases(store, "").forget(cell.lowest.fit_key() for cell in settled)
        if settings.keep_models and records:
            say(f"models: {models_line(records)}")
        if saved := encodings_saved(records):
            say(saved)
        if interrupted:
            return RunOutcome(self.plan, failed, interrupted)
        if state.todo or state.done:
            allowed = allowed_by(self.plan.cells).items()
            filters = [word for name, text in allowed for word in (option_name(name), text)]
            self.reporter.results(self.request.store, filters)
        inapplicable = self._report_inapplicable(state, records)
        return RunOutcome(self.plan, failed, inapplicable=inapplicable)

    def _report_inapplicable(self, state: Resume, records: Sequence[Record]) -> bool:
        """Report that all cells are n/a, if so; True in that case: the request gives no number."""
        before = (self.store.get(cell.key()) for cell in [*state.done, *state.failed])
        reasons: dict[str, None] = {}
        for record in chain(records, before):
            if record is None or record.status != "inapplicable":
                return False
            reasons[f"{record.spec.label}: {(record.error or {}).get('message')}"] = None
        if reasons:
            said = limited(list(reasons), FEW)
            self.reporter.warning(f"all cells are n/a, there is no result: {said}")
        return bool(reasons)


def from_store(methods: Sequence[str | Configured]) -> Iterator[str]:
    """Lines on methods that were named, and whose code is that of the store."""
    for method in methods:
        name = method.partition("@")[0] if isinstance(method, str) else ""
        own = None if name in registry().methods.entries else own_methods.find(name)
        if own:
            yield f"{name}: version {own.version}, from {own.reference.rpartition(':')[0]}"


def encodings_saved(records: Sequence[Record]) -> str:
    """Line comparing images encoded and billed for a frozen encoder; empty if none was shared."""
    fits = Counter(record.spec.fit_key() for record in records)
    computed = billed = adapted = 0
    for record in records:
        work = record.footprint.get("work")
        shared = fits[record.spec.fit_key()] > 1 or record.spec.inner
        if work is None or shared or not record.footprint["metered"]:
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
