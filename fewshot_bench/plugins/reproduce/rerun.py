"""Repeats the cell of a record, and lists what differs between then and now."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_bench.api.method_code import canonical, parts
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import KEPT_MODEL
from fewshot_bench.store.answer_files import largest_gap, whole_digest
from fewshot_bench.store.method_copies import source_place
from fewshot_bench.store.store import Kept
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.runner.examination import Outcome

FACTS = {
    "environment": (
        *("fewshot_bench", "commit", "dirty", "python", "packages", "platform", "device"),
        *("device_name", "threads", "determinism", "weights_digest", "activation"),
        *("method_origin", "code"),
    ),
    "split": ("digest", "images", "revision", "templates", "train", "val", "test"),
    "metrics": (*METRICS, "n"),
    "footprint": ("trained", "stored", "steps"),
}


class Difference(NamedTuple):
    """One fact that changed."""

    name: str
    then: Any
    now: Any


@dataclass(frozen=True)
class Verdict:
    """The result of a repetition. same: equal bits, predictions, metrics or error (exit code 0)."""

    text: str
    same: bool


def obstacles(record: Record, store: Path | None) -> list[Difference]:
    """Changes found before anything is trained: of the method, the data or the weights.

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
        if not code.get("registered") or not made:
            raise
        raise UsageError(
            f"method '{spec.method}' is not installed; {made} computed the record: install it, "
            "then run the same command again"
        ) from error
    facts = [("method version", spec.method_version, str(getattr(cls, "version", "1")))]
    if is_dataclass(cls):
        names = sorted(field.name for field in hyperparameters(cls))
        then = ", ".join(sorted(spec.options))
        facts.append(("list of hyper-parameters", then, ", ".join(names)))
    revision = revision_of(spec.dataset, catalog.dataset(spec.dataset, spec.data, store))
    facts.append(("revision", spec.revision, revision))
    if spec.target:
        revision = revision_of(spec.target, catalog.dataset(spec.target, store=store))
        facts.append(("target revision", spec.target_revision, revision))
    facts.append(("weights", spec.weights, weights_of(spec.backbone)))
    return [Difference(*fact) for fact in facts if fact[1] != fact[2]]


def from_file(kept: Kept, file: str | None) -> Kept:
    """The record with its method in another file (`file.py:Class`), for one whose file has moved.

    UsageError for a method in no file, and for a missing file whose source the store holds: no code
    of a store runs unless the user names it.
    """
    spec = kept.record.spec
    reference, copied = parts(spec.method), source_place(spec.method)
    if file is not None:
        if reference is None:
            raise UsageError(f"'{spec.method}' is not a method in a file: leave --method out")
        method = canonical(file)
        return replace(kept, record=replace(kept.record, spec=replace(spec, method=method)))
    if reference and copied and kept.store and not Path(reference[0]).is_file():
        copy = kept.store / copied
        if copy.is_file():
            raise UsageError(
                f"the method's file '{reference[0]}' is gone, and the store has its source: "
                f"read it, then add --method {shlex.quote(f'{copy}:{reference[1]}')}"
            )
    return kept


def repeat(kept: Kept) -> Outcome:
    """Compute the cell again in this process, with the number of CPU threads of the record.

    Nothing is stored and no cached feature is read.
    """
    import torch

    from fewshot_bench.runner.examiner import Examiner
    from fewshot_bench.runner.run import run_one
    from fewshot_bench.runner.session import Session

    spec, threads = kept.record.spec, kept.record.environment.get("threads")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)
    return run_one(spec, Session(None, spec.device, Examiner(kept.store, as_planned=False)))


def differences(then: Record, now: Record) -> list[Difference]:
    """Facts of two records that are not equal."""
    facts = [Difference("status", then.status, now.status)]
    for part, names in FACTS.items():
        before, after = getattr(then, part), getattr(now, part)
        for name in names:
            if part == "metrics" and name not in before:
                continue  # A metric that was added after the record was made.
            pair = before.get(name), after.get(name)
            if all(isinstance(value, Mapping) for value in pair):
                prefix = "" if name == "packages" else f"{name} "
                keys = sorted({*pair[0], *pair[1]})
                facts += [Difference(prefix + key, *(v.get(key) for v in pair)) for key in keys]
            else:
                facts.append(Difference(f"{part} {name}", *pair))
    return [fact for fact in facts if fact.then != fact.now]


def verdict(kept: Kept, outcome: Outcome) -> Verdict:
    """Compare a repetition with its record.

    The digest of all logits decides on equal bits, even if only some of them were stored.
    """
    then, now = kept.record, outcome.record
    if then.status != "done" or now.status != "done" or outcome.answers is None:
        if then.status != now.status:
            return Verdict(f"different: was {then.status}, is {now.status}", False)
        errors = [record.error or {} for record in (then, now)]
        same = all(errors[0].get(name) == errors[1].get(name) for name in ("type", "message"))
        return Verdict(f"{'same' if same else 'different'} error", same)
    before, after = kept.answers, outcome.answers
    same = all(now.metrics.get(name) == value for name, value in then.metrics.items())
    bits = then.logits_digest == whole_digest(after, outcome.ids)
    if bits and (same or before is not None):
        return Verdict("same result, bit for bit", True)
    if before is None:
        return Verdict(f"{'same' if same else 'different'} metrics; no answers to compare", same)
    shapes = [(len(answers.labels), answers.classes) for answers in (before, after)]
    if shapes[0] != shapes[1]:
        return Verdict(f"different: logits of shape {shapes[0]}, now {shapes[1]}", False)
    gap = f"log-probabilities of labels differ by up to {largest_gap(before, after):.3g}"
    changed = int((before.predictions != after.predictions).sum())
    if not changed:
        return Verdict(f"same predictions, {gap}", True)
    return Verdict(f"different: {changed} of {shapes[0][0]} predictions changed, {gap}", False)
