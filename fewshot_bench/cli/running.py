"""What `fsbench run` does: expand the matrix, check it, run what is not done yet, report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli import remarks
from fewshot_bench.cli.conditions import Conditions
from fewshot_bench.cli.engines import Engines
from fewshot_bench.cli.own_data import read_own_data
from fewshot_bench.cli.remarks import forget_claims, tell_missing, tell_overlaps, tell_problems
from fewshot_bench.errors import DataMissingError, UsageError
from fewshot_bench.image_facts import overlaps
from fewshot_bench.preflight import check_images, keep_splits
from fewshot_bench.processes import interrupt_on_signals
from fewshot_bench.trackers import switch as trackers
from fewshot_bench.wording import printable

if TYPE_CHECKING:
    from fewshot_bench.plan import Plan, Request
    from fewshot_bench.record import Record

INTERRUPTED = 130


def request_of(
    conditions: Conditions,
    *,
    method: tuple[str, ...],
    dataset: tuple[str, ...],
    shots: tuple[int, ...],
    seeds: tuple[int, ...],
    store: Path,
    split_seed: int | None = None,
    option: tuple[str, ...] = (),
    protocol: str = "fair",
    val: str | None = None,
    prompts: str | None = None,
    limit: int | None = None,
    classes: tuple[str, ...] = ("all",),
    transfer: tuple[str, ...] | None = None,
    classnames: Path | None = None,
    templates: tuple[str, ...] = (),
    holdout: float | None = None,
    keep_split: str = "store",
    exif: str = "ignore",
    skip_damaged: bool = False,
) -> Request:
    """What the options of `fsbench run` ask for; UsageError for own data that cannot be used."""
    from fewshot_bench.plan import Request

    return Request(
        methods=method,
        datasets=dataset,
        shots=shots,
        seeds=seeds,
        split_seed=split_seed,
        options=option,
        backbone=conditions.backbone,
        device=conditions.device,
        precision=conditions.precision,
        protocol=protocol,
        val=val,
        prompts=prompts,
        limit=limit,
        classes=classes,
        transfer=transfer or (),
        data=read_own_data(classnames, templates, holdout),
        store=store,
        keep_split=keep_split,
        exif=exif,
        skip_damaged=skip_damaged,
    )


def run_matrix(
    *,
    store: Path,
    conditions: Conditions,
    engines: Engines,
    dry_run: bool = False,
    force: bool = False,
    retry_failed: bool = False,
    keep_stale: bool = False,
    traceback: bool = False,
    track: tuple[str, ...] | None = None,
    **matrix: Any,
) -> int:
    """Expand, check, run and report; returns the exit code. matrix: as `request_of` takes it."""
    from fewshot_bench import plan as planning

    interrupt_on_signals()
    trackers.switch_on(track or (), store)
    request = request_of(conditions, store=store, **matrix)
    return run_plan(
        planning.expand(request),
        store=store,
        conditions=conditions,
        engines=engines,
        dry_run=dry_run,
        force=force,
        retry_failed=retry_failed,
        keep_stale=keep_stale,
        traceback=traceback,
    )


def run_plan(
    plan: Plan,
    *,
    store: Path,
    conditions: Conditions,
    engines: Engines,
    dry_run: bool = False,
    force: bool = False,
    retry_failed: bool = False,
    keep_stale: bool = False,
    traceback: bool = False,
) -> int:
    """Run what the store does not hold of a plan, and report; returns the exit code."""
    from fewshot_bench.engines.protocol import Before
    from fewshot_bench.image_state import ImageState
    from fewshot_bench.outcomes import Outcomes
    from fewshot_bench.resuming import Code, resume
    from fewshot_bench.savings import encodings_saved
    from fewshot_bench.store import Store

    interrupt_on_signals()
    click.echo(conditions.text())
    tell_missing(plan.problems)
    # Absolute, since a plug-in may change the working directory.
    results = Store(store.absolute())
    if not dry_run:
        results.create()
    elif any(part.is_file() for part in (store, *results.path.parents)):
        raise UsageError(f"store '{store}' is not a folder; choose another one with --store DIR")
    # Taken first: what others store from now on is news.
    before = Before.of(results, plan.cells)
    installed = Code.of(cell.method for cell in plan.cells)
    images = ImageState(plan.datasets, results.path)
    wanted = {"force": force, "retry_failed": retry_failed, "keep_stale": keep_stale}
    state = resume(plan, results, installed, images, **wanted)
    tell_problems(images.problems)
    # Workers leave what is done unless they are told that it is not.
    settings = engines.settings(conditions, force or state.again, installed.identity())
    if dry_run:
        _announce(plan, state, results)
        if state.todo or not plan.problems:
            click.echo(_needs(plan, state).text(min(settings.workers, len(state.todo))))
        _announce_weights(conditions.backbone)
        engines.describe(results, len(state.todo), click.echo)
        return _exit_code(plan, failed=0)
    if state.todo and engines.engine == "local":
        from fewshot_bench.backbones import loading

        loading.check_weights(conditions.backbone)
    _check_room(plan, state, results, engines, settings)
    with engines.build(results, settings, before) as engine:
        engine.warm(len(state.todo))
        _drop_unreadable(plan, state)
        keep_splits(plan.datasets, plan.keep_split, but=plan.problems)
        _announce(plan, state, results)
        shared = tell_overlaps(images.overlaps(state.todo))
        troubles = len(trackers.problems())
        code, finished = _run(plan, state, engine)
    _tell_failures(state, finished, results, whole=traceback)
    _tell_troubles(trackers.problems()[troubles:])
    _tell_other_code(installed, finished)
    tell_overlaps(overlaps(finished), shared)
    # Logits that were just written are read quickly; later `compare` and `report` need not.
    with suppress(KeyboardInterrupt):
        Outcomes(results).prepare(finished if code != INTERRUPTED else [])
    forget_claims(results, [*state.done, *(record.spec for record in finished)])
    if saved := encodings_saved(finished):
        click.echo(saved)
    if code != INTERRUPTED and (state.todo or state.done):
        click.echo(f"results in {store}; fsbench compare --store {store}")
    return code


def _tell_troubles(troubles: list[str]) -> None:
    """What trackers failed at; no result depends on it."""
    if troubles:
        where = trackers.folder() / trackers.PROBLEMS
        _warn(f"{len(troubles)} cells were not tracked: {troubles[-1]}; all of them in {where}")


def _tell_other_code(code: Any, finished: Sequence[Record]) -> None:
    """What was edited while it ran, or was computed by another run meanwhile with older code."""
    text = code.about(finished)
    if text:
        _warn(text)


def _needs(plan: Any, state: Any) -> Any:
    from fewshot_bench.room import needs

    return needs(state.todo, plan.datasets)


def _check_room(plan: Any, state: Any, results: Any, engines: Engines, settings: Any) -> None:
    from fewshot_bench import room

    if state.todo:
        needed = _needs(plan, state)
        room.check_disk(results.path, needed.disk)
        if engines.engine == "local":
            workers = min(settings.workers, len(state.todo))
            room.check_memory(workers, needed.worker, len(settings.devices))


def _drop_unreadable(plan: Any, state: Any) -> None:
    """Take data sets with missing or corrupt images out of what is left to run, and say so."""
    bad = check_images(plan.datasets, state.todo, _warn, click.echo)
    tell_missing(bad)
    plan.problems.update(bad)
    state.todo[:] = [cell for cell in state.todo if not {cell.dataset, cell.target} & set(bad)]


def _warn(text: str) -> None:
    click.echo(f"warning: {printable(text)}", err=True)


def _announce(plan: Any, state: Any, results: Any) -> None:
    from fewshot_bench.short_classes import short_lines

    for reason in plan.left_out.values():
        _warn(f"left out: {reason}")
    for damage in results.damaged:
        click.echo(f"warning: damaged, not used: {damage}", err=True)
    for line in short_lines(plan.cells, plan.datasets):
        click.echo(f"note: {printable(line)}")
    remarks.tell_left_out(plan.datasets)
    if plan.problems and not (state.todo or state.done or state.failed):
        return
    failed = f", {len(state.failed)} failed before (--retry-failed)" if state.failed else ""
    for line in state.about_stale():
        click.echo(line)
    cells = "1 cell" if len(plan.cells) == 1 else f"{len(plan.cells)} cells"
    click.echo(f"{cells}: {len(state.done)} done already, {len(state.todo)} to run{failed}")


def _announce_weights(backbone: str) -> None:
    """For --dry-run, which asks no other machine."""
    from fewshot_bench.backbones import loading

    if loading.needs_fetching(backbone):
        click.echo(f"the weights of {printable(backbone)} are not on this machine: to be fetched")


def _run(plan: Any, state: Any, engine: Any) -> tuple[int, list[Record]]:
    """The exit code, and the records that came in."""
    from fewshot_bench.cli.progress import display

    finished: list[Record] = []
    try:
        with display(state.todo, engine.workers, live=_is_terminal()) as shown:
            for record in engine.run(state.todo, shown.inside):
                shown.finish(record)
                finished.append(record)
    except KeyboardInterrupt:
        click.echo(
            f"stopped: {len(state.done) + shown.done} of {len(plan.cells)} cells are done and "
            "kept; run the same command again to continue",
            err=True,
        )
        return INTERRUPTED, finished
    failed = len(state.failed) + sum(record.status == "failed" for record in finished)
    return _exit_code(plan, failed), finished


def _tell_failures(state: Any, finished: list[Record], results: Any, *, whole: bool) -> None:
    """Say why cells failed: those of this run, and those that it left alone since they had."""
    from fewshot_bench.cli.failures import tell_failures

    before = [results.get(cell.key()) for cell in state.failed]
    tell_failures([*filter(None, before), *finished], results, whole=whole)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _exit_code(plan: Any, failed: int) -> int:
    if plan.problems:
        return DataMissingError.exit_code
    return 1 if failed else 0
