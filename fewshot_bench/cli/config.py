"""Configuration files for `fsbench run`: YAML or TOML with the names of the options."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.options import is_given
from fewshot_bench.utils.errors import UsageError, suggestion
from fewshot_bench.utils.files import read_regular_text, whole
from fewshot_bench.utils.plain_yaml import MOST_BYTES, load_plain


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a .yaml, .yml or .toml file; UsageError names the fault and the place."""
    try:
        text = read_regular_text(path, most=MOST_BYTES)
    except UnicodeDecodeError as error:
        raise UsageError(f"config file {path} cannot be read: {error}; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(
            f"config file {path} cannot be read: {error.strerror}; check the path"
        ) from None
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"config file {path} is not valid TOML: {error}") from None
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path, text)
    raise UsageError(f"config file {path}: expected a name ending in .yaml, .yml or .toml")


def _read_yaml(path: Path, text: str) -> dict[str, Any]:
    """The mapping in a YAML text with unique keys."""
    import yaml

    def unique(pairs: list[tuple[Any, Any]], line: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if not isinstance(key, str):
                raise UsageError(f"config file {path}: key {key!r}: expected a name")
            if key in mapping:
                raise UsageError(f"config file {path}: key '{key}' stands twice (from line {line})")
            mapping[key] = value
        return mapping

    try:
        values = load_plain(text, unique)
    except yaml.YAMLError as error:
        raise UsageError(f"config file {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict | None):
        kind = "list" if isinstance(values, list) else "text"
        raise UsageError(f"config file {path}: expected names and values, got a {kind}")
    return values or {}


def as_defaults(values: Mapping[str, Any], ctx: click.Context, path: Path) -> dict[str, Any]:
    """Config values as defaults of the command's options, whose types will convert them."""
    options = {
        name.lstrip("-"): parameter
        for parameter in ctx.command.get_params(ctx)
        if isinstance(parameter, click.Option) and parameter.name not in ("config", "save_config")
        for name in parameter.opts
        if name.startswith("--")
    }
    defaults = {}
    for raw, value in values.items():
        name = str(raw).replace("_", "-")
        if name not in options:
            raise UsageError(
                f"config file {path}: unknown key '{raw}'"
                f"{suggestion(name, options) or ': expected one of ' + ', '.join(sorted(options))}"
                " (fsbench run --help)"
            )
        option = options[name]
        assert option.name is not None
        if option.name in defaults:
            raise UsageError(
                f"config file {path}: '{raw}' and another key are the option --{name}: keep one"
            )
        defaults[option.name] = _option_value(option, value, f"config file {path}: {raw}")
    return defaults


def _option_value(option: click.Option, value: Any, where: str) -> Any:
    if option.multiple:
        if isinstance(value, Mapping) and "=" not in (option.metavar or ""):
            raise UsageError(f"{where}: expected a text or a list of texts, got names with values")
        return _settings(value, where)
    parts = value if isinstance(value, list) else [value]
    value = ",".join(_scalar(part, where) for part in parts)
    if option.is_flag:
        if value.casefold() in ("true", "false", "yes", "no", "on", "off"):
            return value.casefold() in ("true", "yes", "on")
        raise UsageError(f"{where}={value}: expected true or false")
    return value


def _settings(value: Any, where: str) -> list[str]:
    """Hyper-parameters: a list of name=value, or a mapping of names to values or lists."""
    if not isinstance(value, Mapping):
        return [_scalar(part, where) for part in (value if isinstance(value, list) else [value])]
    settings = []
    for name, given in value.items():
        if isinstance(given, Mapping):
            settings += [f"{name}.{setting}" for setting in _settings(given, where)]
        else:
            settings.append(f"{name}={','.join(_settings(given, where))}")
    return settings


def _scalar(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        if "\0" in str(value):
            raise UsageError(f"{where}={value!r}: expected a text without the character \\0")
        return str(value)
    raise UsageError(f"{where}: expected a single value or a list, got {value!r}")


def save_config(path: Path, values: Mapping[str, Any]) -> None:
    """Write options as a config file that `--config` reads back to the same run."""
    import yaml

    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise UsageError(f"--save-config {path}: expected a name ending in .yaml, .yml or .toml")
    kept = {name.replace("_", "-"): value for name, value in values.items() if is_given(value)}
    if path.suffix == ".toml":
        # A TOML value is as in JSON, but for a character that TOML alone forbids in texts.
        text = "".join(f"{n} = {json.dumps(v, ensure_ascii=False)}\n" for n, v in kept.items())
        text = text.replace("\x7f", "\\u007f")
    else:
        # YAML would not read back unescaped characters that it takes for line ends.
        plain = json.dumps(kept, ensure_ascii=False, default=str).isprintable()
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=plain)
    try:
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--save-config {path}: cannot be written: {error.strerror}; choose another file, or "
            "leave it out"
        ) from None
    except UnicodeEncodeError:
        raise UsageError(
            f"--save-config {path}: a value is not UTF-8, which TOML cannot hold; expected a name "
            "ending in .yaml"
        ) from None
