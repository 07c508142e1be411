"""The last lines of `fsbench adapt`: what was compared, chosen and why, and where it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from fewshot_bench.plugins.models.adapt import Adapted
from fewshot_bench.plugins.models.model_card import MEASURED, state
from fewshot_bench.plugins.models.rejection import describe
from fewshot_bench.plugins.models.search import WHOLE
from fewshot_bench.plugins.models.suspects import find_suspects
from fewshot_bench.store.kept_methods import find_method
from fewshot_bench.store.kept_models import CARD, REPORT
from fewshot_bench.utils.text import counted

MOST = 12
"""Maximum lines of `adapt`, including those on the data."""
BEST, WORST = 3, 5


def summarize(adapted: Adapted, said: Sequence[str] = ()) -> list[str]:
    """Lines on a kept model; said: lines that were shown before, which are not repeated."""
    config, folder = adapted.config, shlex.quote(str(adapted.folder))
    use = f"model in {adapted.folder}; fsbench predict {folder} IMAGES"
    if own := find_method(adapted.folder, config.method, config.method_version):
        # No command runs code that a model brings, unless it is named.
        use += f" --method {shlex.quote(own.reference)}"
    first, last = list(_results(adapted)), list(filter(None, (describe(config), use)))
    notes = [note for note in adapted.notes if not any(note in line for line in said)]
    room = max(MOST - len(said) - len(first) - len(last), 1)
    if len(notes) > room:
        notes[room - 1 :] = [f"{notes[room - 1]}; more notes in {adapted.folder / CARD}"]
    return [*first, *notes, *last]


def _results(adapted: Adapted) -> Iterator[str]:
    """The number of methods and the best of them, the choice with its reason, its accuracy."""
    rows, config = adapted.methods, adapted.config
    if len(rows) > 1:
        ranked = sorted(
            (row for row in rows if row["accuracy"] >= 0), key=lambda row: -row["accuracy"]
        )
        count, total = (
            len({row["method"].removesuffix(WHOLE).partition("[")[0] for row in some})
            for some in (ranked, rows)
        )
        best = ", ".join(f"{row['method']} {100 * row['accuracy']:.1f} %" for row in ranked[:BEST])
        yield f"compared {count} of {total} methods" + (f": {best}" if best else "")
    chosen = next(row for row in rows if row["chosen"])
    why = f": {chosen['note']}" if chosen["note"] else ""
    verb = "chosen" if len(rows) > 1 else "fitted"
    yield f"{verb} {chosen['method']} on {config.backbone}{why}"
    if figures := config.accuracy:
        mean, interval = state(figures["mean"], figures["low"], figures["high"])
        measured = f"{MEASURED[figures['metric']].lower()} {mean} % on held-out images"
        old = figures.get("original")
        before = "" if old is None else f"; {100 * old:.1f} % by the labels before --relabel"
        yield f"{measured} ({100 * figures['level']:.0f} % interval {interval} %){before}"
    if learned := adapted.learned:
        worst = [row for row in learned.worst()[:WORST] if row["images"] and row["recall"] < 1]
        if least := [f"{row['class']} {100 * row['recall']:.0f} %" for row in worst]:
            yield f"least often right: {', '.join(least)}"
        count = len(find_suspects(learned))
        suspects = f" and {counted(count, 'suspect label')} (suspects.csv)" if count else ""
        yield f"mistakes{suspects}: open {adapted.folder / REPORT}"
