"""Checks of side effects and determinism: backbone, output, generators, process state, seeds."""

from __future__ import annotations

import copy
import dataclasses

import torch

from fewshot_bench.testing.bench import Bench, skip_unless_finite
from fewshot_bench.testing.contract_checks import as_floats, require_close, require_rows
from fewshot_bench.testing.failure import listed, require
from fewshot_bench.testing.toy import list_accesses
from fewshot_bench.utils.devices import accelerator_kind


def check_backbone_is_left_as_found(bench: Bench) -> None:
    """The backbone's weights, buffers, flags and hooks are as before after fit and after logits."""
    prints = bench.first.fingerprints
    require(prints[1] == prints[0], "fit left the backbone changed; work on copies, or undo it")
    require(prints[-1] == prints[0], "logits() left the backbone changed")


_CAUSES = (
    "an earlier fit or answer left something behind (in a global, a class attribute, a cache), or "
    "a generator of its own has no seed; keep no state, draw from ctx.rng(name)"
)


def check_same_seed_gives_the_same_logits(bench: Bench) -> None:
    """Two instances with equal hyper-parameters and the same seed give the same logits."""
    again = dataclasses.replace if dataclasses.is_dataclass(bench.method) else copy.copy
    twin = Bench(again(bench.method), bench.device).fit()
    require_same(bench, as_floats(twin.logits), "another instance with the same seed")


def check_fit_is_repeatable(bench: Bench) -> None:
    """Fitting one instance twice gives the same logits, and leaves the first classifier alone."""
    require_same(bench, as_floats(bench.again.logits), "a second fit of the same instance")
    later = as_floats(bench.first.predict())
    require_same(bench, later, "the first classifier, after a second fit,")


def require_same(bench: Bench, logits: torch.Tensor, who: str) -> None:
    """CheckFailure unless the logits equal those of the first fit: bit for bit on the CPU."""
    skip_unless_finite(bench.first)
    expected = as_floats(bench.first.logits)
    if bench.device == "cpu":
        same = torch.equal(logits, expected)
        require(same, f"{who} gives other logits: {_CAUSES}")
    require_close(logits, expected, f"{who} gives other logits")


def check_follows_the_device(bench: Bench) -> None:
    """Logits and stored tensors are on the backbone's device; it is tried on an accelerator too."""
    for device in sorted({bench.device, accelerator_kind() or bench.device}):
        made = bench.first if device == bench.device else Bench(bench.method, device).fit()
        expected = made.backbone.device
        devices_of = {"logits": made.logits.device}
        devices_of |= {name: t.device for name, t in made.stored().items()}
        wrong = [f"{name} on {other}" for name, other in devices_of.items() if other != expected]
        require(not wrong, f"not on {expected}: {listed(wrong)}; use ctx.device")


def check_fits_and_predicts_in_bf16(bench: Bench) -> None:
    """In bf16, as on GPUs by default, it gives one row of finite numbers per query, too."""
    require_rows(bench.fit(precision="bf16"))


def check_prints_nothing(bench: Bench) -> None:
    """Nothing is written to stdout or stderr; `ctx.note` keeps facts, `ctx.log` curves."""
    text = bench.first.seen.printed + bench.again.seen.printed
    require(not text, f"wrote {text[:80]!r}; use ctx.note, ctx.log and ctx.progress")


def check_draws_from_no_global_generator(bench: Bench) -> None:
    """The global generators of random, NumPy and torch are where they were."""
    drawn = bench.first.seen.generators
    require(not drawn, f"drew from the global generator of {listed(drawn)}; use ctx.rng(name)")


def check_leaves_process_state_alone(bench: Bench) -> None:
    """Directory, environment, and the settings of Python, NumPy and torch are as before."""
    changes = bench.again.seen.state
    require(not changes, f"changed the process: {listed(changes, '; ')}")


def check_asks_only_for_what_is_handed_over(bench: Bench) -> None:
    """Of images, only the contract is asked: no labels of queries, no paths, no sources."""
    names = list_accesses(*bench.first.views)
    require(not names, f"asked its images for {listed(names)}; queries have no labels or paths")
