"""Turns rows of images with labels or class names into pools whose labels are 0 to n - 1.

Main entry point: `label_rows`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from fewshot_bench import Item, UsageError
from fewshot_bench.api.sources import Pools, in_prompts, placeholder_names, plain_text
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT

# Columns and keys that hold a class name.
NAME_KEYS = ("class", "classname", "class_name")
# Integers, also in the form that tables with missing values use (3.0).
NUMBER = re.compile(r"(-?[0-9]{1,9})(?:\.0+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One image: `label` is an integer (with or without `classname`), or the class name itself.

    `where` is the row's position for error messages, such as "line 7".
    """

    id: str
    label: int | str
    classname: str | None = None
    role: str = UNSPLIT
    where: str = ""


@dataclass(frozen=True)
class Labeled:
    """Pools by listed role (`UNSPLIT` for rows without a role), sorted by label, then by id.

    classnames: by label; None if the rows have only integer labels; items then have placeholders.
    twins: two class names that are one in prompts; empty without such a pair.
    """

    pools: Pools
    classnames: tuple[str, ...] | None
    twins: tuple[str, ...] = ()


def label_rows(name: str, rows: Sequence[Row], classnames: Sequence[str] | None = None) -> Labeled:
    """Check the rows and give each a label and a class name; UsageError names a bad row.

    classnames: known class names by label. Without them, labels number the sorted class names;
    integer labels must run from 0 without gaps. Pools are sorted by label, then by id, so that
    few-shot picks do not depend on the container format.
    """
    if not rows:
        raise UsageError(f"{name} lists no images: expected at least two classes")
    rows = [_tidy(row) for row in rows]
    _check_ids(name, rows)
    _check_roles(name, rows)
    kinds: dict[type, Row] = {}
    for row in rows:
        kinds.setdefault(type(row.label), row)
    if len(kinds) > 1:
        first = " and ".join(f"{row.label!r} ({row.where})" for row in kinds.values())
        raise UsageError(f"{name} has labels of two kinds, {first}: expected numbers or names")
    names, checked = _names(name, rows, classnames)
    twins = twin_names(names if classnames is None else classnames)
    labels = {text: label for label, text in enumerate(names)}
    pools: dict[str, list[Item]] = {}
    for row in rows:
        label = row.label if isinstance(row.label, int) else labels[row.label]
        pools.setdefault(row.role, []).append(Item(row.id, label, names[label]))
    return Labeled(in_order(pools), names if checked else None, twins)


def in_order(pools: Mapping[str, Iterable[Item]]) -> Pools:
    """Sort each pool by label, then by id."""
    return {
        role: tuple(sorted(items, key=lambda item: (item.label, item.id)))
        for role, items in pools.items()
    }


@cache
def tidy_name(text: str) -> str:
    """A class name in Unicode form NFC, stripped, with runs of whitespace as single blanks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def twin_names(names: Iterable[str]) -> tuple[str, ...]:
    """The first two distinct names that are one in prompts; empty if all can be told apart."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(in_prompts(name), name)
        if other != name:
            return other, name
    return ()


def _tidy(row: Row) -> Row:
    """The row with tidied class names; text that is not plain is left for later checks."""
    label, classname = row.label, row.classname
    if isinstance(label, str) and plain_text(label.strip()):
        label = tidy_name(label)
    if classname is not None and plain_text(classname.strip()):
        classname = tidy_name(classname)
    return replace(row, label=label, classname=classname)


def role_of(name: str, text: str, where: str) -> str:
    """The role that a word such as `valid` or `Test` stands for; UsageError for other words."""
    role = ROLE_NAMES.get(text.strip().casefold())
    if role is None:
        raise UsageError(
            f"{name}: unknown split '{text}' ({where}): expected one of {', '.join(ROLE_NAMES)}"
        )
    return role


def check_text(name: str, text: str, what: str, where: str) -> str:
    """The text; UsageError when it is empty or not plain UTF-8."""
    if not text.strip() or not plain_text(text):
        problem = f"{what} {text!a}" if text.strip() else f"empty {what}"
        raise UsageError(
            f"{name}: {problem} ({where}): expected text in UTF-8 without control characters"
        )
    return text


def number_or_name(label: int | str) -> int | str:
    """Parse a label: an integer if its text is one, else the class name unchanged."""
    text = str(label).strip()
    match = NUMBER.fullmatch(text)
    return int(match[1]) if match else label


def _check_ids(name: str, rows: Sequence[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        check_text(name, row.id, "image name", row.where)
        other = seen.setdefault(row.id, row)
        if other is not row:
            raise UsageError(
                f"{name} lists '{row.id}' twice ({other.where} and {row.where}): expected every "
                "image once"
            )


def _check_roles(name: str, rows: Sequence[Row]) -> None:
    roles = {row.role for row in rows}
    if UNSPLIT in roles and len(roles) > 1:
        bare = next(row for row in rows if row.role == UNSPLIT)
        raise UsageError(
            f"{name}: '{bare.id}' ({bare.where}) has no split while others have one: expected a "
            "split (train, val, test) for all images or for none"
        )


def _names(
    name: str, rows: Sequence[Row], classnames: Sequence[str] | None
) -> tuple[tuple[str, ...], bool]:
    """Class names by label, and False if they are placeholders."""
    if classnames is not None:
        _check_known(name, rows, classnames)
        return tuple(map(tidy_name, classnames)), True
    for row in rows:
        if isinstance(row.label, str):
            check_text(name, row.label, "class name", row.where)
    if isinstance(rows[0].label, str):
        return tuple(sorted({str(row.label) for row in rows})), True
    numbered = _number(name, rows)
    _check_gaps(name, rows)
    if not numbered:
        return placeholder_names(max(int(row.label) for row in rows) + 1), False
    for row in rows:
        if row.label not in numbered:
            raise UsageError(f"{name}: label {row.label} ({row.where}) has no class name")
    return tuple(numbered[label] for label in range(len(numbered))), True


def _check_known(name: str, rows: Sequence[Row], classnames: Sequence[str]) -> None:
    for label, text in enumerate(classnames):
        check_text(name, text, "class name", f"of label {label}")
    expected = set(map(tidy_name, classnames))
    for row in rows:
        if isinstance(row.label, str) and len(expected) < len(classnames):
            raise UsageError(
                f"{name}: two of its class names are the same, and its images have names as "
                "labels: expected numbers (.cls), or distinct names"
            )
        if isinstance(row.label, int):
            good = 0 <= row.label < len(classnames)
        else:
            good = row.label in expected
        if not good:
            raise UsageError(
                f"{name}: label {row.label!r} ({row.where}) is not among its {len(classnames)} "
                f"class names: expected 0 to {len(classnames) - 1}, or one of the names"
            )


def _number(name: str, rows: Sequence[Row]) -> Mapping[int, str]:
    """Label to the class name given beside it; UsageError unless names and labels match 1 to 1."""
    rows_of: dict[int, Row] = {}
    owners: dict[str, Row] = {}
    for row in rows:
        if row.classname is None:
            continue
        check_text(name, row.classname, "class name", row.where)
        first = rows_of.setdefault(int(row.label), row)
        if first.classname != row.classname:
            raise UsageError(
                f"{name} gives label {row.label} two names, '{first.classname}' ({first.where}) "
                f"and '{row.classname}' ({row.where}): expected one name per label"
            )
        owner = owners.setdefault(row.classname, row)
        if owner.label != row.label:
            raise UsageError(
                f"{name} gives the class '{row.classname}' two labels, {owner.label} "
                f"({owner.where}) and {row.label} ({row.where}): expected one label per class"
            )
    return {label: str(row.classname) for label, row in rows_of.items()}


def _check_gaps(name: str, rows: Sequence[Row]) -> None:
    labels = {int(row.label) for row in rows}
    for row in rows:
        if int(row.label) < 0:
            raise UsageError(
                f"{name}: label {row.label} ({row.where}): expected whole numbers from 0 (-1 often "
                "marks images whose label is kept secret; take them out)"
            )
    if max(labels) != len(labels) - 1:
        gap = next(label for label in range(len(labels)) if label not in labels)
        raise UsageError(
            f"{name} has no image of label {gap}: its {len(labels)} classes are expected to be "
            f"numbered 0 to {len(labels) - 1}, the highest is {max(labels)}"
        )
