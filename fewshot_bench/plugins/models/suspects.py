"""Labels that are probably wrong, and corrections of labels by a person.

`find_suspects` lists them by confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70),
`write_suspects` writes a file of them, and `correct` applies it after a person has looked at it.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fewshot_bench.analysis.formats.tidy import field, write_csv
from fewshot_bench.api.items import Item
from fewshot_bench.utils.arguments import Kind
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.files import read_regular_text
from fewshot_bench.utils.text import few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.learned import Learned

HEADS = ("image", "label", "suggested", "probability", "p_label", "rank")
LEFT_OUT = ("", "-", "'-")
"""Instead of a class in the column `suggested`: the image is left out."""
_DELIMITERS = ",;\t"
Relabel = str | os.PathLike[str] | Mapping[str, str | None]
"""A file of corrections, or the new class of each image by its id; None leaves it out."""
RELABEL = Kind(
    "a CSV file, or a mapping of images to classes",
    lambda given: (
        msgspec.convert(given, dict[str, str | None]) if isinstance(given, Mapping) else Path(given)
    ),
)


def find_suspects(learned: Learned) -> list[dict[str, Any]]:
    """A row for each suspect label, the most suspect first.

    Keys: `image`, `label`, `suggested` with its `probability`, `p_label` (that of the label) and
    `rank` from 1.
    """
    held = np.flatnonzero(learned.held)
    labels, shares = learned.labels[held], learned.probabilities[held]
    return [
        {
            "image": learned.ids[held[index]],
            "label": learned.classnames[labels[index]],
            "suggested": learned.classnames[shares[index].argmax()],
            "probability": float(shares[index].max()),
            "p_label": float(shares[index, labels[index]]),
            "rank": rank,
        }
        for rank, index in enumerate(rank_suspects(labels, shares).tolist(), 1)
    ]


def rank_suspects(labels: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of suspect labels, those with the least probability first.

    labels: (n,); shares: (n, classes) probabilities by fits that had not seen the image. An image
    counts for the likeliest of the classes whose threshold it reaches: the mean probability of the
    class among images with its label. Of each label, as many are suspect as that gives other
    classes, in proportion to all of its images, and only if another class is likelier.
    """
    classes, every = shares.shape[1], np.arange(len(labels))
    thresholds = np.full(classes, np.inf)
    for label in np.unique(labels):
        thresholds[label] = shares[labels == label, label].mean()
    reached = np.where(shares >= thresholds, shares, -1.0)
    counted, joint = reached.max(axis=1, initial=-1.0) >= 0, np.zeros((classes, classes))
    np.add.at(joint, (labels[counted], reached[counted].argmax(axis=1)), 1)
    away = joint.sum(axis=1) - joint.diagonal()
    parts = np.divide(away, joint.sum(axis=1), out=np.zeros(classes), where=away > 0)
    own = shares[every, labels]
    order = np.argsort(own, kind="stable")
    order = order[shares[order].argmax(axis=1) != labels[order]]
    found = [
        order[labels[order] == label][: round(parts[label] * (labels == label).sum())]
        for label in range(classes)
    ]
    suspect: NDArray[np.int64] = order[np.isin(order, np.concatenate(found))]
    return suspect


def write_suspects(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `find_suspects` as a CSV file; probabilities have four decimals."""
    rounded = ({k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    return write_csv(list(rounded), HEADS)


def correct(
    items: Sequence[Item], classnames: Sequence[str], given: Relabel
) -> tuple[list[Item], dict[str, str | None]]:
    """The images with corrected classes, and the new class of each that changed (None: left out).

    UsageError for a file that cannot be read, an unknown image or class, an image that is there
    twice or has another label than the file says, and a class that would have no image.
    """
    own, names = {item.id: item for item in items}, dict.fromkeys(classnames)
    images, classes = _by_written(own), _by_written(names)
    changed: dict[str, str | None] = {}
    seen: set[str] = set()
    for where, image, label, new in _list_corrections(given):
        if (id := images.get(image)) is None:
            raise unknown(
                "image", image, own, f"{where}; images that are trained on, by their path"
            )
        if id in seen:
            raise UsageError(f"{where}: '{image}' stands there twice; leave one row out")
        seen.add(id)
        if label and classes.get(label) != own[id].classname:
            raise UsageError(
                f"{where}: '{image}' has the label '{own[id].classname}', not '{label}': expected "
                "the class as it is now in the column label, and the right one in suggested"
            )
        if new not in LEFT_OUT and new not in classes:
            raise unknown("class", new, names, f"{where}; - leaves an image out")
        if classes.get(new) != own[id].classname:
            changed[id] = classes.get(new)
    places = {name: label for label, name in enumerate(classnames)}
    kept = [
        item if name == item.classname else replace(item, label=places[name], classname=name)
        for item in items
        if (name := changed.get(item.id, item.classname)) is not None
    ]
    if lost := {item.classname for item in items} - {item.classname for item in kept}:
        raise UsageError(f"{_name(given)}: leaves no image of the class {few(sorted(lost))}")
    return kept, changed


def _name(given: Relabel) -> str:
    return "relabel" if isinstance(given, Mapping) else f"--relabel {os.fspath(given)}"


def _by_written(names: Iterable[str]) -> dict[str, str]:
    """Each name by itself, and by what `write_suspects` writes for it."""
    listed = list(names)
    return {str(field(name)): name for name in listed} | {name: name for name in listed}


def _list_corrections(given: Relabel) -> Iterator[tuple[str, str, str, str]]:
    """(where it stands, image, label if it is stated, new class) of each row."""
    where = _name(given)
    if isinstance(given, Mapping):
        for image, new in given.items():
            yield where, image, "", new or ""
        return
    try:
        text = read_regular_text(Path(given))
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}: is not UTF-8; save the file as UTF-8") from None
    # Spreadsheets write semicolons where the comma is the decimal sign.
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        if missing := {"image", "suggested"} - {*(rows.fieldnames or ())}:
            raise UsageError(
                f"{where} has no column {few(sorted(missing))}: expected a CSV file with the "
                f"columns {', '.join(HEADS[:3])}, such as the suspects.csv of a model"
            )
        for row in rows:
            if any(row.values()):
                image, label, new = (
                    row.get(name) or "" for name in ("image", "label", "suggested")
                )
                yield f"{where}, line {rows.line_num}", image, label, new
    except csv.Error as error:
        raise UsageError(f"{where}, line {rows.line_num}: is not valid CSV: {error}") from None
