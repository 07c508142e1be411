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
from fewshot_bench.utils.arguments import Kind
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.files import read_regular_text
from fewshot_bench.utils.text import counted, few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.learned import Learned

HEADS = ("image", "label", "suggested", "probability", "p_label", "rank")
"""`suggested` is the likeliest class, with its `probability`; `p_label`: that of the label."""
LEFT_OUT = ("-", "'-")
Rows = Sequence[tuple[str, str, str]]
"""Image, label (empty: any) and the class that it shall have, or one of LEFT_OUT."""


def find_suspects(learned: Learned) -> list[dict[str, Any]]:
    """A row of HEADS for each suspect label, the most suspect first."""
    held = np.flatnonzero(learned.held)
    return _rows(learned, held[rank_suspects(learned.labels[held], learned.probabilities[held])])


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
        rows.append(dict(zip(HEADS, (learned.ids[place], *names, *shares, rank), strict=True)))
    return rows


def rank_suspects(labels: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of suspect labels, those with the least probability first.

    Confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70), pruned by class. labels: (n,);
    shares: (n, classes) probabilities by fits that had not seen the image. An image counts for the
    likeliest class whose threshold it reaches: the mean probability of the class among images with
    its label. Of each label, the share that counts for other classes is suspect.
    """
    own = shares[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=shares.shape[1])
    # NaN, which nothing reaches, for a class without images.
    thresholds = np.bincount(labels, own, len(counts)) / np.where(counts, counts, np.nan)
    reached = np.where(shares >= thresholds, shares, -1.0)
    sure, elsewhere = reached.max(axis=1) >= 0, reached.argmax(axis=1) != labels
    total, wrong = (np.bincount(labels, part, len(counts)) for part in (sure, sure & elsewhere))
    most = np.rint(counts * wrong / np.maximum(total, 1)).astype(int)
    order = np.argsort(own, kind="stable")
    order = order[shares[order].argmax(axis=1) != labels[order]]
    found = [order[labels[order] == label][:count] for label, count in enumerate(most)]
    return np.asarray(order[np.isin(order, np.concatenate(found))])


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
    if missing := {"image", "suggested"} - {*(rows.fieldnames or ())}:
        raise UsageError(
            f"{where} has no column {few(sorted(missing))}: expected the columns "
            f"{', '.join(HEADS[:3])}, as in the suspects.csv of a model"
        )
    return [(row["image"], row.get("label", ""), row["suggested"]) for row in listed]


RELABEL = Kind("a CSV file, or rows of image, label and class", _read_corrections)


def correct(
    items: Sequence[Item], classnames: Sequence[str], rows: Rows
) -> tuple[list[Item], tuple[str, ...]]:
    """The images with corrected classes, and a note on them.

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
    changed = counted(sum(item not in (None, own[id]) for id, item in new.items()), "label")
    gone = counted(len(items) - len(kept), "image")
    return kept, (f"{changed} corrected, {gone} left out (--relabel)",)
