"""Recipes of papers: the tables and figures of one, in a TOML file.

A recipe's keys are the long options of `fsbench compare` and `fsbench figure`, which these commands
parse themselves. `read_recipe` is the entry.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fewshot_bench.analysis.figures.style import FORMATS as _ENDINGS
from fewshot_bench.analysis.figures.style import KINDS
from fewshot_bench.analysis.formats import FORMATS as TABLES
from fewshot_bench.analysis.formats.latex import check_label
from fewshot_bench.analysis.table import layouts
from fewshot_bench.cli import compare, figure
from fewshot_bench.cli.config import read_config
from fewshot_bench.cli.panels import ListOption
from fewshot_bench.utils.errors import FsbenchError, UsageError, suggestion

# The ending of a file by format, the default of each kind first.
ENDINGS: Mapping[str, Mapping[str, str]] = {
    "table": {
        "latex": ".tex",
        "markdown": ".md",
        "terminal": ".txt",
        **{name: f".{name}" for name in TABLES if name in ("html", "csv", "json")},
    },
    "figure": {ending[1:]: ending for ending in _ENDINGS},
}
COMMANDS: Mapping[str, click.Command] = {"table": compare.command, "figure": figure.command}
# The name of the file that includes all others.
WHOLE = "paper"
# Options that follow from the recipe, and keys that are no options.
_OWN = ("store", "output", "data", "help")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "table": ("name",),
    "figure": ("name", "kind", "format", "caption", "label"),
}
# Keys of tables, and the formats without them.
_WITHOUT: Mapping[str, tuple[str, ...]] = {
    "label": tuple(form for form in TABLES if form != "latex"),
    "caption": ("csv", "json"),
}
# Keys that name rows.
_ROWS = ("ours", "baseline")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Item:
    """One table or figure. keys: of the recipe, defaults among them, without name and format."""

    kind: str
    name: str
    formats: tuple[str, ...]
    keys: Mapping[str, Any]

    @property
    def what(self) -> str:
        """How messages name it: `figure 'shots'`."""
        return f"{self.kind} '{self.name}'"

    @property
    def command(self) -> click.Command:
        """The command that makes it."""
        return COMMANDS[self.kind]

    def path(self, folder: Path, form: str) -> Path:
        """Its file in a format."""
        return folder / f"{self.name}{ENDINGS[self.kind][form]}"

    def words_for(self, store: Path, form: str = "") -> list[str]:
        """The arguments of its command, without those that a format of tables has not."""
        options = options_of(self.command)
        words = [str(self.keys["kind"]), "-O", f"{self.name}.pdf"] if self.kind == "figure" else []
        words += ["--store", str(store)]
        for key, value in self.keys.items():
            if key in options and form not in _WITHOUT.get(key, ()):
                words += _words_of(self, key, value, options[key])
        return words

    def without(self, names: Collection[str]) -> Item:
        """The item without new names of these, and without them in groups, as ours and baseline."""
        keys = {
            key: value
            for key, value in self.keys.items()
            if key not in _ROWS or not {*map(str, _as_list(value))} <= {*names}
        }
        renamed = keys.get("rename")
        if isinstance(renamed, dict):
            keys["rename"] = {old: new for old, new in renamed.items() if old not in names}
        elif renamed is not None:
            texts = map(str, _as_list(renamed))
            keys["rename"] = [text for text in texts if text.partition("=")[0] not in names]
        if "group" in keys:
            keys["group"] = dict(_groups_without(keys["group"], names))
        return replace(self, keys=keys)

    def parse(self, words: list[str]) -> click.Context:
        """The context of its command for these arguments; UsageError that names the item."""
        name = self.command.name or ""
        try:
            return self.command.make_context(name, words)
        except (click.UsageError, FsbenchError) as error:
            text = error.format_message() if isinstance(error, click.UsageError) else str(error)
            line = " ".join(text.split())
            raise UsageError(f"{self.what}: {line} (fsbench {name} --help)") from None


def _groups_without(groups: Any, names: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Titles of groups with their methods, those that `names` lacks; groups of none are left out.

    groups: a table, or texts as `TITLE=NAMES`.
    """
    from fewshot_bench.analysis.filters import split_list

    pairs = [text.partition("=")[::2] for text in map(str, _as_list(groups))]
    for title, given in groups.items() if isinstance(groups, dict) else pairs:
        every = split_list(",".join(map(_text, _as_list(given))), ())
        left = [name for name in every if name not in names]
        if left or not every:
            yield title.strip(), left


def read_recipe(path: Path) -> list[Item]:
    """The tables and figures of a recipe, in its order; UsageError names what is wrong, and where.

    Every item is parsed by its command, so that nothing is wrong when the first one is made.
    """
    if path.suffix != ".toml":
        raise UsageError(f"recipe {path}: expected a name that ends in .toml")
    values = read_config(path)
    try:
        items = list(_items(values))
        for item in items:
            item.parse(item.words_for(Path()))
    except UsageError as error:
        raise UsageError(f"recipe {path}: {error}") from None
    if not items:
        raise UsageError(
            f"recipe {path}: expected [[table]] or [[figure]] (fsbench paper --example)"
        )
    return items


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by their long names, as keys of a recipe: `allow-mixed`."""
    return {
        name.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name.startswith("--")
    }


def _items(values: Mapping[str, Any]) -> Iterator[Item]:
    for name in values:
        if name not in ("defaults", *COMMANDS):
            raise UsageError(
                f"unknown part '{name}'{suggestion(name, ('defaults', *COMMANDS))}: expected "
                "[defaults], [[table]] and [[figure]]"
            )
    defaults = values.get("defaults", {})
    if not isinstance(defaults, dict):
        raise UsageError("expected [defaults] to be a table of keys")
    defaults = _spell(defaults)
    every = {key for kind in COMMANDS for key in _keys(kind)} - {"name"}
    _refuse_unknown("[defaults]", defaults, every, "compare")
    names: set[str] = set()
    for kind in COMMANDS:
        parts = values.get(kind, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise UsageError(f"write every {kind} as [[{kind}]]")
        for part in parts:
            item = _item(kind, defaults, _spell(part))
            if item.name in names:
                raise UsageError(f"{item.what}: two have this name; give each its own")
            names.add(item.name)
            yield item


def _spell(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys as options are spelled: `allow_mixed` is `allow-mixed`."""
    return {key.replace("_", "-"): value for key, value in keys.items()}


def _keys(kind: str) -> set[str]:
    return {*options_of(COMMANDS[kind]), *_WORDS[kind]} - set(_OWN)


def _item(kind: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> Item:
    name = own.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"[[{kind}]] with name {name!r}: expected a name of letters, digits and '_.-', which "
            "becomes that of its files"
        )
    if name == WHOLE:
        raise UsageError(f"[[{kind}]] with name '{name}': that is the file of all; choose another")
    what = f"{kind} '{name}'"
    _refuse_unknown(what, own, _keys(kind), str(COMMANDS[kind].name))
    usable = ENDINGS[kind]
    formats = _as_list(own.get("format", []))
    for form in formats:
        if form not in usable:
            raise UsageError(
                f"{what}: format '{form}'{suggestion(form, usable)}: expected some of "
                f"{', '.join(usable)}"
            )
    formats = formats or [form for form in _as_list(defaults.get("format", [])) if form in usable]
    keys = {key: value for key, value in defaults.items() if key in _keys(kind)}
    keys |= own
    options = options_of(COMMANDS[kind])
    for key in defaults.keys() & options.keys() - own.keys():
        if not _has_room(kind, keys, options[key].name or key):
            del keys[key]
    if kind == "figure" and keys.get("kind") not in KINDS:
        shown = keys.get("kind")
        raise UsageError(f"{what}: kind {shown!r}: expected one of {', '.join(KINDS)}")
    if kind == "figure":
        check_label(str(keys.get("label", "")), f"{what}: label")
    keys = {key: value for key, value in keys.items() if key not in ("name", "format")}
    return Item(kind, name, tuple(dict.fromkeys(formats or [next(iter(usable))])), keys)


def _has_room(kind: str, keys: Mapping[str, Any], name: str) -> bool:
    """False for an option that this layout of a table, or kind of a figure, has no room for."""
    from fewshot_bench.analysis.figures.kinds import refuse_foreign

    try:
        if kind == "figure":
            refuse_foreign(str(keys.get("kind")), [name])
        else:
            layouts.check_options(str(keys.get("layout", layouts.DEFAULT)), [name], max)
    except UsageError:
        return False
    return True


def _refuse_unknown(where: str, keys: Collection[str], known: Collection[str], name: str) -> None:
    for key in keys:
        if key in _OWN:
            raise UsageError(f"{where}: '{key}' follows from the command line; leave it out")
        if key not in known:
            raise UsageError(
                f"{where}: unknown key '{key}'{suggestion(key, known)} (fsbench {name} --help)"
            )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _words_of(item: Item, key: str, value: Any, option: click.Option) -> list[str]:
    """A value as arguments: lists and tables of a repeated option are several."""
    flag = f"--{key}"
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{item.what}: {key} = {value!r}: expected true or false")
        return [flag] if value else []
    if isinstance(value, dict):
        if not option.multiple:
            raise UsageError(f"{item.what}: {key}: expected a value, got a table")
        pairs = ((name, ",".join(map(_text, _as_list(one)))) for name, one in value.items())
        return [word for name, text in pairs for word in (flag, f"{name}={text}")]
    texts = [_text(one) for one in _as_list(value)]
    if option.multiple:
        return [word for text in texts for word in (flag, text)]
    if len(texts) > 1 and not isinstance(option, ListOption) and option.metavar != "NUMBERS":
        raise UsageError(f"{item.what}: {key}: expected one value, got {len(texts)}")
    return [flag, ",".join(texts)]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
