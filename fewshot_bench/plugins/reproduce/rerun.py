"""`fsbench rerun`: repeats the cell of a record, and lists what differs between then and now."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.own_methods import digest_in, version_in
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import KEPT_MODEL
from fewshot_bench.cli.options import store_option
from fewshot_bench.cli.output import aligned
from fewshot_bench.cli.working import working
from fewshot_bench.store.kept_methods import adopt_methods
from fewshot_bench.utils.devices import count_devices
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import printable, shown

if TYPE_CHECKING:
    from fewshot_bench.runner.examiner import Outcome
    from fewshot_bench.store.store import Kept

FACTS = {
    "environment": (
        *("fewshot_bench", "commit", "dirty", "python", "packages", "platform", "device"),
        *("device_name", "threads", "determinism", "tf32", "weights_digest", "activation"),
        *("method_origin", "code"),
    ),
    "split": ("digest", "images", "revision", "templates", "train", "val", "test"),
    "metrics": (*METRICS, "n"),
    "footprint": ("trained", "stored", "steps"),
}
# The name of a fact, and its values then and now.
Fact = tuple[str, Any, Any]


@click.command("rerun", short_help="Repeat the cell of a record and show what differs.")
@click.argument("record")
@store_option("Store in which a key is looked for.")
@click.option("--anyway", is_flag=True, help="Run even if the method or the data has changed.")
@click.pass_context
def command(ctx: click.Context, record: str, store: Path, anyway: bool) -> None:
    """Repeat the cell of a record and show what differs.

    RECORD is a record's file, or a cell's key or its beginning. Nothing is stored. A method of a
    file or a notebook runs from its code in the store.

    Exit code: 0 same result or same predictions, 1 different, 2 wrong usage, 3 data missing.
    """
    from fewshot_bench.analysis.signature import commands_of
    from fewshot_bench.store.store import find

    kept = find(record, store)
    if kept.store is not None:
        adopt_methods(kept.store, [kept.record.spec])
    then, spec = kept.record, kept.record.spec
    click.echo(spec.describe())
    for text in commands_of([spec])[0]:
        click.echo(f"  {printable(text)}")
    if kept.problem:
        click.echo(f"not used: {kept.problem}", err=True)
    changed = _unequal(_facts_before(then, kept.store))
    for name, before, after in changed:
        click.echo(f"warning: {name} was {before}, is {after}", err=True)
    if changed and not anyway:
        names = " and ".join(name for name, _, _ in changed)
        raise UsageError(f"{names} changed since this record: nothing was run; use --anyway")
    for line in _about_code(kept):
        click.echo(line)
    with working("rerun"):
        outcome = _repeat(kept)
    facts = _unequal(_facts_after(then, outcome.record))
    rows = [("", "then", "now"), *((name, shown(a), shown(b)) for name, a, b in facts)]
    for line in aligned([*rows, *_other_rows(then, outcome.record)]):
        click.echo(line)
    text, same = _compare(kept, outcome)
    click.echo(text)
    ctx.exit(0 if same else FsbenchError.exit_code)


def _about_code(kept: Kept) -> Iterator[str]:
    """A line on what was edited in the method since the record, if the store knows it."""
    from fewshot_bench.runner.resuming import Code, shorten_changes

    method, digest = kept.record.spec.code_name, kept.record.code_digest
    if kept.store is None or not digest:
        return
    code = Code.of([method])
    if code.digests[method] != digest and (
        changes := code.list_changes(method, digest, kept.store)
    ):
        yield f"code: {shorten_changes(changes)} since this record"


def _unequal(facts: Iterable[Fact]) -> list[Fact]:
    return [fact for fact in facts if fact[1] != fact[2]]


def _facts_before(record: Record, store: Path | None) -> Iterator[Fact]:
    """Facts of the method, the data and the weights that must be equal before anything is trained.

    store: the folder of the record, if known. UsageError for the record of a kept model.
    """
    from fewshot_bench.api.method import hyperparameters
    from fewshot_bench.api.registry import registry
    from fewshot_bench.runner.preflight import revision_of
    from fewshot_bench.runner.request import weights_of

    spec, catalog = record.spec, registry()
    if spec.protocol == KEPT_MODEL:
        raise UsageError(
            "the record is that of a kept model, which was not fitted for it: "
            "fsbench evaluate MODEL --store DIR measures the model again"
        )
    try:
        cls = catalog.method_class(spec.method)
    except UsageError as error:
        code = record.environment.get("code") or {}
        made = f"{code.get('distribution') or ''} {code.get('version') or ''}".strip()
        if not code.get("registered") and digest_in(spec.method_version):
            raise UsageError(
                f"the store has no code of {spec.method} in version {spec.method_version}: merge "
                "the store that ran it (fsbench store merge)"
            ) from error
        if not code.get("registered") or not made:
            raise
        raise UsageError(
            f"method '{spec.method}' is not installed; {made} computed the record: install it, "
            "then run the same command again"
        ) from error
    yield "method version", spec.method_version, version_in(spec.method, cls)
    if dataclasses.is_dataclass(cls):
        names = sorted(field.name for field in hyperparameters(cls))
        yield "list of hyper-parameters", ", ".join(sorted(spec.options)), ", ".join(names)
    dataset = catalog.dataset(spec.dataset, spec.data, store)
    yield "revision", spec.revision, revision_of(spec.dataset, dataset)
    if spec.target:
        target = revision_of(spec.target, catalog.dataset(spec.target, store=store))
        yield "target revision", spec.target_revision, target
    yield "weights", spec.weights, weights_of(spec.backbone)


def _repeat(kept: Kept) -> Outcome:
    """Compute the cell again in this process, with the number of CPU threads of the record.

    Nothing is stored and no cached feature is read.
    """
    import torch

    from fewshot_bench.runner.examiner import Examiner
    from fewshot_bench.runner.run import run_one
    from fewshot_bench.runner.session import Session

    spec, threads = kept.record.spec, kept.record.environment.get("threads")
    if not count_devices(spec.device):
        raise UsageError(f"the record was made on '{spec.device}', which this machine lacks")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)
    return run_one(spec, Session(None, spec.device, Examiner(kept.store, as_planned=False)))


def _facts_after(then: Record, now: Record) -> Iterator[Fact]:
    """Facts of two records of one cell."""
    yield "status", then.status, now.status
    for part, names in FACTS.items():
        before, after = getattr(then, part), getattr(now, part)
        for name in names:
            if part == "metrics" and name not in before:
                continue  # A metric that was added after the record was made.
            old, new = before.get(name), after.get(name)
            if isinstance(old, Mapping) and isinstance(new, Mapping):
                prefix = "" if name == "packages" else f"{name} "
                yield from (
                    (prefix + key, old.get(key), new.get(key)) for key in sorted({**old, **new})
                )
            else:
                yield f"{part} {name}", old, new


def _other_rows(then: Record, now: Record) -> Iterator[tuple[str, str, str]]:
    """The times of both, and the last lines of their errors."""
    for name in ("billed_seconds", "elapsed_seconds"):
        times = [record.timings.get(name) for record in (then, now)]
        if None not in times:
            yield name.replace("_", " "), f"{times[0]:.3f}", f"{times[1]:.3f}"
    for name in ("type", "message", "traceback"):
        texts = [str((record.error or {}).get(name, "")) for record in (then, now)]
        if texts[0] != texts[1] or (texts[0] and name != "traceback"):
            last = [(text.strip().splitlines() or [""])[-1] for text in texts]
            yield f"error {name}", last[0], last[1]


def _compare(kept: Kept, outcome: Outcome) -> tuple[str, bool]:
    """The verdict on a repetition, and whether bits, predictions, metrics or errors are equal.

    The digest of all logits decides on equal bits, even if only some of them were stored.
    """
    from fewshot_bench.store.answer_files import largest_gap, whole_digest

    then, now = kept.record, outcome.record
    if then.status != "done" or now.status != "done" or outcome.answers is None:
        if then.status != now.status:
            return f"different: was {then.status}, is {now.status}", False
        errors = [record.error or {} for record in (then, now)]
        same = all(errors[0].get(name) == errors[1].get(name) for name in ("type", "message"))
        return f"{'same' if same else 'different'} error", same
    before, after = kept.answers, outcome.answers
    same = all(now.metrics.get(name) == value for name, value in then.metrics.items())
    bits = then.logits_digest == whole_digest(after, outcome.ids)
    if bits and (same or before is not None):
        return "same result, bit for bit", True
    if before is None:
        return f"{'same' if same else 'different'} metrics; no answers to compare", same
    shapes = [(len(answers.labels), answers.classes) for answers in (before, after)]
    if shapes[0] != shapes[1]:
        return f"different: logits of shape {shapes[0]}, now {shapes[1]}", False
    gap = f"log-probabilities of labels differ by up to {largest_gap(before, after):.3g}"
    changed = int((before.predictions != after.predictions).sum())
    if not changed:
        return f"same predictions, {gap}", True
    return f"different: {changed} of {shapes[0][0]} predictions changed, {gap}", False
