"""Checks on an accelerator, or on the rehearsal device that stands in for one."""

from __future__ import annotations

from fewshot_bench.testing.bench import SEED, Bench, Setting, prepare
from fewshot_bench.testing.contract_checks import as_floats, require_close, require_rows
from fewshot_bench.testing.failure import CheckSkipped, listed, require
from fewshot_bench.testing.rehearsal.waits import Wait, can_hear, hear_waits
from fewshot_bench.testing.toy import toy_backbone
from fewshot_bench.utils.rng import isolate


def check_the_host_does_not_wait(bench: Bench) -> None:
    """Between the first and the last optimizer step, and in logits, the host reads nothing.

    Nor does it copy memory to the device that is not pinned. Loading images in `logits` is free,
    and a batch may be read there a few times.
    """
    if not can_hear(bench.device):
        raise CheckSkipped("waits are seen on rehearsal and cuda alone")
    made = prepare(Setting(), toy_backbone(bench.device))
    with isolate(SEED), hear_waits(bench.device) as fit:
        made.classifier = bench.method.fit(made.task, made.backbone, made.context)
    made.sees = bench.first.sees
    with isolate(SEED), hear_waits(bench.device) as logits:
        made.predict()
    _refuse("a training step", fit.in_steps())
    _refuse("logits()", logits.in_answers(made.sees))


def _refuse(where: str, waits: list[Wait]) -> None:
    places = list(dict.fromkeys(map(str, waits)))
    require(
        not places,
        f"the host waits for the device in {where}: {listed(places, '; ')}; keep numbers on the "
        "device until the last step (ctx.log takes tensors), and move tensors there before the "
        "first",
    )


def check_gives_the_logits_of_a_cpu(bench: Bench) -> None:
    """In fp32, logits are those of the same fit on a CPU."""
    expected = as_floats(Bench(bench.method).fit().logits)
    require_close(as_floats(bench.first.logits), expected, "logits differ from those of a CPU")


def check_fits_and_predicts_in_fp16(bench: Bench) -> None:
    """In fp16, as on cards without bf16, it gives one row of finite numbers per query, too."""
    require_rows(bench.fit(precision="fp16"))
