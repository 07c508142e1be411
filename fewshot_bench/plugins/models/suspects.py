"""Labels that are probably wrong (`find_suspects`), and corrections by a person (`correct`)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.api.items import Item
from fewshot_bench.plugins.models import estimates
from fewshot_bench.utils.arguments import Kind
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.files import read_regular_text
from fewshot_bench.utils.text import counted, few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.learned import Learned

ACCEPT = "accept"
HEADS = ("image", "label", "suggested", ACCEPT, "probability", "p_label", "rank")
"""`suggested` is the likeliest class, with its `probability`; `p_label`: that of the label. A
person marks rows in `accept`, which is empty: only those are corrected."""
MARKS = dict.fromkeys(("x", "y", "yes", "true", "1"), True)
MARKS |= dict.fromkeys(("", "n", "no", "false", "0"), False)
MANY = 0.1
"""Share of the images above which corrections make the accuracy doubtful."""
LEFT_OUT = ("-", "'-")
Rows = Sequence[tuple[str, str, str]]
"""Image, label (empty: any) and the class that it shall have, or one of LEFT_OUT."""


def find_suspects(learned: Learned) -> list[dict[str, Any]]:
    """A row of HEADS for each suspect label, the most suspect first."""
    held = np.flatnonzero(learned.held)
    found, _ = rank_suspects(learned.labels[held], learned.probabilities[held])
    return _rows(learned, held[found])


def remark(learned: Learned) -> str:
    """A line on the number of wrong labels, and on how many suspects are wrong; or no line."""
    labels, shares = learned.labels[learned.held], learned.probabilities[learned.held]
    found, doubts = rank_suspects(labels, shares)
    sure, told = [(shares.argmax(axis=1) == labels).mean()], []
    if len(found):
        sure.append(doubts[found].mean())
        wrong, many = 100 * doubts.mean(), counted(len(found), "suspect label")
        told = [f"about {wrong:.0f} % of the labels may be wrong, {100 * sure[1]:.0f} % of {many}"]
    if min(sure) <= 0.5:
        told.append("the accuracy is too low to tell wrong labels from hard images")
    return "; ".join(told)


def find_mistakes(learned: Learned) -> list[dict[str, Any]]:
    """A row of HEADS for each wrong answer, the most confident first; one of several copies."""
    own, first = learned.probabilities, learned.groups == np.arange(len(learned.groups))
    wrong = np.flatnonzero(learned.held & first & (own.argmax(axis=1) != learned.labels))
    return _rows(learned, wrong[np.argsort(-own[wrong].max(axis=1), kind="stable")])


def _rows(learned: Learned, places: NDArray[np.int64]) -> list[dict[str, Any]]:
    rows = []
    for rank, place in enumerate(places.tolist(), 1):
        label, own = learned.labels[place], learned.probabilities[place]
        names = learned.classnames[label], learned.classnames[own.argmax()]
        shares = (round(float(share), 4) for share in (own.max(), own[label]))
        row = learned.ids[place], *names, "", *shares, rank
        rows.append(dict(zip(HEADS, row, strict=True)))
    return rows


def rank_suspects(
    labels: NDArray[np.int64], shares: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices of suspect labels, the most suspect first, and the doubt in each of the labels.

    As many are listed as wrong labels are expected, by self-confidence (the probability of the
    label) relative to the threshold of the class, its mean (confident learning, Northcutt, Jiang
    and Chuang 2021, JAIR 70, equation 2). A label that is the likeliest class is no suspect.
    Arguments and doubts: see `estimates.doubts`.
    """
    doubts = estimates.doubts(labels, shares)
    own = shares[np.arange(len(labels)), labels]
    thresholds = np.bincount(labels, own) / np.maximum(np.bincount(labels), 1)
    order = np.argsort(own / np.maximum(thresholds[labels], 1e-30), kind="stable")
    order = order[shares[order].argmax(axis=1) != labels[order]]
    return order[: round(float(doubts.sum()))], doubts


def _read_corrections(given: Any) -> Rows:
    if not isinstance(given, str | os.PathLike):
        return msgspec.convert(list(given), list[tuple[str, str, str]])
    where = f"--relabel {os.fspath(given)}"
    try:
        text = read_regular_text(Path(given))
        # Spreadsheets write semicolons where the comma is the decimal sign.
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        file = io.StringIO(text, newline="")
        rows = csv.DictReader(file, restval="", delimiter=delimiter, strict=True)
        listed = [row for row in rows if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{where} is no CSV file in UTF-8 that can be read: {error}") from None
    if missing := {"image", "suggested", ACCEPT} - {*(rows.fieldnames or ())}:
        raise UsageError(
            f"{where} has no column {few(sorted(missing))}: expected the columns "
            f"{', '.join(HEADS[:4])}, as in the suspects.csv of a model"
        )
    marks = [row[ACCEPT].strip().casefold() for row in listed]
    if odd := {*marks} - {*MARKS}:
        raise UsageError(
            f"{where} has {few(sorted(odd))} in the column {ACCEPT}: expected x to correct a label "
            "as suggested, or nothing (write another class into the column suggested)"
        )
    marked = (row for row, mark in zip(listed, marks, strict=True) if MARKS[mark])
    return [(row["image"], row.get("label", ""), row["suggested"]) for row in marked]


RELABEL = Kind("a CSV file, or rows of image, label and class", _read_corrections)


def correct(
    items: Sequence[Item], classnames: Sequence[str], rows: Rows
) -> tuple[list[Item], tuple[str, ...]]:
    """The images with corrected classes, and notes on them.

    UsageError for an unknown image or class, an image that is there twice or has another label than
    its row says, and a class that would have no image.
    """
    own = {item.id: item for item in items}
    # In a file, names that look like formulas are written otherwise.
    images = {write(id): id for write in (field, str) for id in own}
    places = {write(name): at for write in (field, str) for at, name in enumerate(classnames)}
    new: dict[str, Item | None] = {}
    for image, label, name in rows:
        if (id := images.get(image)) is None:
            raise unknown("image", image, own, "--relabel; its path in the data set")
        if id in new:
            raise UsageError(f"--relabel: '{image}' stands there twice; leave one row out")
        if label and places.get(label) != own[id].label:
            raise UsageError(
                f"--relabel: '{image}' has the label '{own[id].classname}', not '{label}': "
                "expected its class so far there, and the right one in the column suggested"
            )
        at = places.get(name)
        if at is None and name not in LEFT_OUT:
            raise unknown("class", name, classnames, f"--relabel, '{image}'; - leaves it out")
        new[id] = None if at is None else replace(own[id], label=at, classname=classnames[at])
    kept = [item for item in (new.get(item.id, item) for item in items) if item]
    if lost := {item.classname for item in items} - {item.classname for item in kept}:
        raise UsageError(f"--relabel: leaves no image of {few(sorted(lost))}")
    changed, gone = sum(item != own[item.id] for item in kept), len(items) - len(kept)
    note = f"{counted(changed, 'label')} corrected, {counted(gone, 'image')} left out (--relabel)"
    note += "" if changed + gone else f": x in the column {ACCEPT} accepts a row"
    share = (changed + gone) / len(items)
    many = (
        f"warning: {100 * share:.0f} % of the images were changed by --relabel: the model is "
        "measured by labels that a model may have suggested"
    )
    return kept, (note, many)[: 1 + (share > MANY)]
