"""`fsbench run`: expand the matrix, check it, run what is not done yet."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from fewshot_bench.cli.config import as_defaults, read_config, save_config
from fewshot_bench.cli.options import NAMES, NUMBERS
from fewshot_bench.cli.own_data import read_own_data
from fewshot_bench.errors import DataMissingError, UsageError
from fewshot_bench.spec import DEFAULT_STORE
from fewshot_bench.wording import printable

INTERRUPTED = 130
_THIS_CALL = ("dry_run", "force", "retry_failed")
_REPEATED = ("option", "templates")


def _load_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        defaults = as_defaults(read_config(value), ctx.command, value)
        ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


_PATH: Any = click.Path(path_type=Path)


@click.command(
    "run", short_help="Run methods on data sets: every cell of the matrix that is not done yet."
)
@click.option(
    "--config",
    type=_PATH,
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="YAML or TOML file with the names of these options.",
)
@click.option("--method", "-m", type=NAMES, required=True, help="Methods, or all.")
@click.option(
    "--dataset", "-d", type=NAMES, required=True, help="Data sets, suites, or FAMILY:ARG."
)
@click.option("--shots", type=NUMBERS, default="1,2,4,8,16", show_default=True)
@click.option("--seeds", type=NUMBERS, default="1,2,3", show_default=True)
@click.option("--split-seed", type=int, help="One support set for all seeds (default: the seed).")
@click.option(
    "--option",
    "-o",
    multiple=True,
    metavar="[METHOD.]NAME=VALUE[,VALUE]",
    help="Hyper-parameter; several values expand the matrix.",
)
@click.option("--backbone", default="tiny", show_default=True, help="MODEL/TAG[@FILE] or a name.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--jobs", type=click.IntRange(1), help="Worker processes (default: by the backbone).")
@click.option(
    "--together",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Fit up to N seeds in one pass, where the method can; equal up to rounding.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16.")
@click.option(
    "--protocol",
    default="fair",
    show_default=True,
    help="fair, clip-lora-paper, or how picks are drawn: coop, clip-lora, nested, imported.",
)
@click.option("--val", help="Validation policy: none, min4, shots or full (default: protocol's).")
@click.option("--prompts", help="Template set: simple, custom, ensemble (default: protocol's).")
@click.option(
    "--classes",
    type=NAMES,
    default="all",
    show_default=True,
    help="Fit on the first half of the classes; evaluate on it (base), on the others (new).",
)
@click.option("--transfer", type=NAMES, help="Evaluate each fit on these data sets or suites too.")
@click.option("--classnames", type=_PATH, help="Own class names: one per line, or JSON or YAML.")
@click.option("--templates", multiple=True, help="Own prompt with {}, or a file of prompts.")
@click.option("--holdout", type=float, help="Share of own images held out for testing.")
@click.option("--limit", type=int, help="Evaluate on at most N test images (marked in tables).")
@click.option("--store", type=_PATH, default=DEFAULT_STORE, show_default=True)
@click.option("--dry-run", is_flag=True, help="Check and count, run nothing.")
@click.option("--force", is_flag=True, help="Compute cells again that are done.")
@click.option("--retry-failed", is_flag=True, help="Compute cells again that failed.")
@click.option("--save-config", type=_PATH, help="Write these options to a file for --config.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Run methods on data sets: every cell of the matrix that is not done yet.

    Exit code: 0 all cells done, 1 some failed, 2 wrong usage, 3 data missing.
    """
    target = values.pop("save_config")
    if target is not None:
        save_config(target, _saved(values))
    try:
        code = run_matrix(**values)
    except KeyboardInterrupt:
        click.echo("stopped before the first cell; run the same command again", err=True)
        code = INTERRUPTED
    ctx.exit(code)


def _saved(values: dict[str, Any]) -> dict[str, Any]:
    """What describes the run; what was only asked of this call (--dry-run ...) is left out."""
    values = {name: value for name, value in values.items() if name not in _THIS_CALL}
    saved = {
        name: list(value) if name in _REPEATED else ",".join(str(part) for part in value)
        for name, value in values.items()
        if isinstance(value, tuple) and value
    }
    plain = {k: v for k, v in values.items() if isinstance(v, str | int | float) and v is not False}
    paths = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
    return {name: {**saved, **plain, **paths}.get(name) for name in values}


def run_matrix(
    *,
    method: tuple[str, ...],
    dataset: tuple[str, ...],
    shots: tuple[int, ...],
    seeds: tuple[int, ...],
    store: Path,
    split_seed: int | None = None,
    option: tuple[str, ...] = (),
    backbone: str = "tiny",
    device: str = "auto",
    jobs: int | None = None,
    together: int = 1,
    precision: str = "fp32",
    protocol: str = "fair",
    val: str | None = None,
    prompts: str | None = None,
    limit: int | None = None,
    classes: tuple[str, ...] = ("all",),
    transfer: tuple[str, ...] | None = None,
    classnames: Path | None = None,
    templates: tuple[str, ...] = (),
    holdout: float | None = None,
    dry_run: bool = False,
    force: bool = False,
    retry_failed: bool = False,
) -> int:
    """Expand, check, run and report; returns the exit code."""
    from fewshot_bench import plan as planning
    from fewshot_bench.engines.local import LocalEngine, slots
    from fewshot_bench.store import Store

    device = _device(device)
    request = planning.Request(
        methods=method,
        datasets=dataset,
        shots=shots,
        seeds=seeds,
        split_seed=split_seed,
        options=option,
        backbone=backbone,
        device=device,
        precision=precision,
        protocol=protocol,
        val=val,
        prompts=prompts,
        limit=limit,
        classes=classes,
        transfer=transfer or (),
        data=read_own_data(classnames, templates, holdout),
        store=store,
    )
    plan = planning.expand(request)
    # Absolute, since a plug-in may change the working directory.
    results = Store(store.absolute())
    if not dry_run:
        results.create()
    elif any(part.is_file() for part in (store, *results.path.parents)):
        raise UsageError(f"store '{store}' is not a folder; choose another one with --store DIR")
    state = planning.resume(plan, results, force=force, retry_failed=retry_failed)
    if dry_run:
        _announce(plan, state, results)
        _announce_work(plan, state)
        return _exit_code(plan, failed=0)
    count, threads = slots(backbone, device, jobs)
    with LocalEngine(results, device, count, threads, force, together) as engine:
        engine.warm(len(state.todo))
        _drop_unreadable(plan, state)
        _announce(plan, state, results)
        code = _run(plan, state, engine)
    if code != INTERRUPTED and (state.todo or state.done):
        click.echo(f"results in {store}; fsbench compare --store {store}")
    return code


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device '{name}': this machine has {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu"
        )
    return name


def _drop_unreadable(plan: Any, state: Any) -> None:
    """Take data sets with missing or corrupt images out of what is left to run."""
    from fewshot_bench.preflight import check_images

    bad = check_images(plan.datasets, state.todo, _warn)
    plan.problems.update(bad)
    state.todo[:] = [cell for cell in state.todo if not {cell.dataset, cell.target} & set(bad)]


def _warn(text: str) -> None:
    click.echo(f"warning: {printable(text)}", err=True)


def _announce(plan: Any, state: Any, results: Any) -> None:
    for problem in plan.problems.values():
        click.echo(f"error: {printable(problem)}", err=True)
    for damage in results.damaged:
        click.echo(f"warning: damaged, not used: {damage}", err=True)
    failed = f", {len(state.failed)} failed before (--retry-failed)" if state.failed else ""
    click.echo(
        f"{len(plan.cells)} cells: {len(state.done)} done already, {len(state.todo)} to run{failed}"
    )


def _announce_work(plan: Any, state: Any) -> None:
    from fewshot_bench.savings import savings

    text = savings(state.todo, plan.datasets).text()
    if text:
        click.echo(text)


def _run(plan: Any, state: Any, engine: Any) -> int:
    from fewshot_bench.cli.progress import display

    failed = len(state.failed)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with display(state.todo, engine.jobs, live=_is_terminal()) as shown:
            for record in engine.run(state.todo, shown.inside):
                shown.finish(record)
                failed += record.status == "failed"
    except KeyboardInterrupt:
        click.echo(
            f"stopped: {len(state.done) + shown.done} of {len(plan.cells)} cells are done and "
            "kept; run the same command again to continue",
            err=True,
        )
        return INTERRUPTED
    if failed:
        click.echo(f"{failed} cells failed; their records say why", err=True)
    return _exit_code(plan, failed)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _exit_code(plan: Any, failed: int) -> int:
    if plan.problems:
        return DataMissingError.exit_code
    return 1 if failed else 0
