"""All names of a new package follow from the one that its author gives."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib.util import find_spec

from fewshot_bench.api.catalog import Catalog
from fewshot_bench.api.column_names import taken
from fewshot_bench.api.method_rules import EVERY
from fewshot_bench.api.metrics import BUILT_IN
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import UsageError

PREFIX = "fsbench"
# Lines of code that hold a name twice fit into the usual 88 columns.
LONGEST = 28
_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9]*([ ._-]+[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """`My Method` is the method `my-method`, the class `MyMethod` in `fsbench_my_method`.

    name: on the command line, and the folder. distribution: for pip. title: in texts.
    """

    name: str
    distribution: str
    module: str
    class_name: str
    title: str


def names_of(kind: str, text: str) -> Names:
    """The names of a new package of a kind; UsageError for a name that cannot be used."""
    asked = text.strip()
    if not _WORDS.fullmatch(asked):
        raise _refuse(kind, text, "expected letters, digits, spaces and hyphens, a letter first")
    if len(asked) > LONGEST:
        raise _refuse(kind, text, f"has {len(asked)} characters, expected at most {LONGEST}")
    words = re.split(r"[ ._-]+", asked)
    lower = [word.lower() for word in words]
    # Metrics are columns, whose names are identifiers.
    name = ("_" if kind == "metric" else "-").join(lower)
    class_name = "".join(word[0].upper() + word[1:] for word in words)
    if keyword.iskeyword(class_name):
        raise _refuse(kind, text, f"its class would be {class_name}, a word of Python")
    names = Names(
        name,
        "-".join((PREFIX, *lower)),
        "_".join((PREFIX, *lower)),
        class_name,
        " ".join((words[0][0].upper() + words[0][1:], *words[1:])),
    )
    (catalog,) = (each for each in registry().catalogs if each.kind.replace(" ", "") == kind)
    if owner := _owner(catalog, name):
        raise _refuse(kind, text, f"{owner} (fsbench list {catalog.listing})")
    if find_spec(names.module) is not None:
        raise _refuse(kind, text, f"its module would be {names.module}, which is installed")
    return names


def _owner(catalog: Catalog, name: str) -> str:
    """The owner of a name; empty if it is free."""
    entry = catalog.entries.get(name) or catalog.entries.get(f"{name}:")
    if entry is not None:
        by = "built in" if entry.is_built_in else f"registered by {entry.origin}"
        return f"the {catalog.kind} '{entry.name}' is {by}"
    if name in catalog.conflicts:
        return f"two plug-ins register the {catalog.kind} '{name}'"
    if name in catalog.suites() or name == EVERY:
        return f"'{name}' is a suite of {catalog.listing}"
    if catalog.kind == "metric" and (name in BUILT_IN or taken(name, BUILT_IN)):
        return f"tables have a column '{name}'"
    return ""


def _refuse(kind: str, text: str, reason: str) -> UsageError:
    return UsageError(f"'{text}': {reason}; choose another name, such as 'my-{kind}'")
