"""Own data: its name, and options on class names, prompt templates and the held-out share."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import SKIPPED, Dataset, Undivided
from fewshot_bench.api.registry import place_without_family, registry
from fewshot_bench.utils.arguments import Kind
from fewshot_bench.utils.errors import UsageError, WrongTypeError
from fewshot_bench.utils.files import read_regular_text
from fewshot_bench.utils.plain_yaml import load_plain

ClassNames = str | os.PathLike[str] | Sequence[str] | Mapping[str, str]
FORMATS = (".txt", ".json", ".yaml", ".yml")
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def name_own(given: str | os.PathLike[str]) -> str:
    """The name of a data set: `folder:PATH` or `manifest:PATH` for a path that exists.

    Registered names and families are as they were: `./digits` is the folder beside them. UsageError
    for a path of nothing, TypeError for what is neither text nor a path.
    """
    text = os.fspath(given)
    if not isinstance(text, str):
        raise TypeError
    place = os.path.expanduser(text)
    if registry().dataset_entry(text) is not None:
        return text
    is_there = os.path.exists(place)
    if os.sep in text and ":" not in text and not is_there:
        raise place_without_family(text)
    if os.path.isdir(place):
        return f"folder:{text}"
    return f"manifest:{text}" if is_there and place.lower().endswith(TABLES) else text


def open_whole(name: str, data: Mapping[str, Any] = {}, *, lenient: bool = False) -> Dataset:
    """The undivided data set. lenient: files may be missing, and train images of some classes."""
    asked = {**data, SKIPPED: {name: []}} if lenient else data
    dataset: Dataset = registry().dataset(name, asked)
    return dataset.undivided() if isinstance(dataset, Undivided) else dataset


DATASET = Kind("the name of a data set, or the path of a folder or table of images", name_own)


def read_own_data(
    classnames: ClassNames | None, templates: Sequence[str], holdout: float | None
) -> dict[str, Any]:
    """The mapping for `RunSpec.data`, with the keys that were given; UsageError names a bad line.

    classnames: a .txt file with one name per line in the order of the labels; a .json, .yaml or
    .yml file with a list of names or a mapping of old names to new ones; or such a list or mapping.
    templates: prompts with exactly one {}, or files with one prompt per line.
    holdout: share of each class; data sets refuse a share that leaves nothing to train or test on.
    """
    data: dict[str, Any] = {}
    if classnames is not None:
        data["classnames"] = _classnames(classnames)
    if templates:
        data["templates"] = _templates(templates)
    if holdout is not None:
        data["holdout"] = holdout
    return data


def _classnames(given: ClassNames) -> list[str] | dict[str, str]:
    if not isinstance(given, str | os.PathLike):
        return _check_names(given, "classnames")
    path = Path(given)
    where = f"--classnames {path}"
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{where}: expected a name that ends in {', '.join(FORMATS)}")
    text = _text(path, where)
    if path.suffix.lower() == ".txt":
        return _lines(text, where, "class name")
    content = _json(text, where) if path.suffix.lower() == ".json" else _yaml(text, where)
    return _check_names(content, where)


def _check_names(names: Any, where: str) -> list[str] | dict[str, str]:
    if isinstance(names, list | tuple) and names:
        return [_name(name, f"{where}, entry {number}") for number, name in enumerate(names, 1)]
    if isinstance(names, Mapping) and names:
        return {_name(old, where): _name(new, f"{where}, '{old}'") for old, new in names.items()}
    wrong = UsageError if isinstance(names, list | tuple | Mapping) else WrongTypeError
    raise wrong(f"{where}: expected a list of names, or a mapping of old names to new ones")


def _templates(given: Sequence[str]) -> list[str]:
    templates: list[str] = []
    for text in given:
        templates += [_template(text, "--templates")] if "{" in text else _template_file(text)
    for template in templates:
        if templates.count(template) > 1:
            raise UsageError(f"--templates: '{template}' stands there twice; leave one out")
    return templates


def _template_file(text: str) -> list[str]:
    path, where = Path(text), f"--templates {text or repr(text)}"
    if not path.is_file():
        raise UsageError(
            f"{where}: holds no {{}} for the class name and is no file; expected a prompt such as "
            '"a photo of a {}.", or a file with one prompt per line'
        )
    lines = _lines(_text(path, where), where, "prompt")
    return [_template(line, f"{where}, line {number}") for number, line in enumerate(lines, 1)]


def _template(text: str, where: str) -> str:
    rest = text.replace("{}", "", 1)
    if "{}" not in text or "{" in rest or "}" in rest:
        raise UsageError(f"{where}: '{text}': expected {{}} exactly once, for the class name")
    return _name(text, where)


def _text(path: Path, where: str) -> str:
    try:
        return read_regular_text(path)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{where}, line {line}: is not UTF-8; save the file as UTF-8") from None


def _lines(text: str, where: str, what: str) -> list[str]:
    """Stripped lines; blank lines at the end are ignored."""
    lines = text.rstrip().split("\n") if text.strip() else []
    if not lines:
        raise UsageError(f"{where} is empty: expected one {what} per line")
    return [_name(line.strip(), f"{where}, line {number}") for number, line in enumerate(lines, 1)]


def _name(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: {value!r:.60}: expected text (put it in quotes)")
    if not value.strip():
        raise UsageError(f"{where}: is empty: expected text")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise UsageError(f"{where}: {value!a}: expected text without control characters")
    # As in the names of data sets: two Unicode forms of a name are one name, and one condition.
    return unicodedata.normalize("NFC", value)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: is not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: is not usable JSON: {error}") from None


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return load_plain(text, lambda pairs, _: _unique(pairs, where))
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UsageError(f"{where} is not valid YAML: {problem}") from None


def _unique(pairs: Sequence[tuple[Any, Any]], where: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for old, new in pairs:
        name = _name(old, where)
        if name in names:
            raise UsageError(f"{where}: '{name}' stands there twice: expected every old name once")
        names[name] = new
    return names
