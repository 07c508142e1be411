"""The method of a kept model: the registered one, or a class that the user hands over.

`build_method` is the entry point. Names and paths in a config are compared, never imported.
"""

from __future__ import annotations

import dataclasses
import inspect
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fewshot_bench.api import method_code
from fewshot_bench.api.keeping import reason_not_to_keep
from fewshot_bench.api.method import convert_value, hyperparameters
from fewshot_bench.api.method_code import parts
from fewshot_bench.api.registry import registry
from fewshot_bench.store.kept_models import ModelConfig
from fewshot_bench.utils.errors import FsbenchError, StoreError, UsageError
from fewshot_bench.utils.plugin_code import plugin_code

# Files of the functions that `dataclass` makes, the last for `__repr__` from Python 3.13 on.
_MADE = ("<string>", dataclasses.__file__, reprlib.__file__)


def build_method(
    path: Path, config: ModelConfig, given: type | None, warn: Callable[[str], None]
) -> Any:
    """The method with the hyper-parameters of the fit; UsageError if it is another version.

    given: the class of a method that no plug-in registers; UsageError if it is none, or another.
    warn: called if the code is not, or not known to be, that of the fit.
    """
    cls = _find_class(path, config) if given is None else _check_class(path, config, given)
    version = str(getattr(cls, "version", "1"))
    if version != config.method_version:
        raise UsageError(
            f"{path} was fitted by {config.method} version {config.method_version}, installed is "
            f"{version}; install {config.method_origin or 'the package of then'}, or fit again"
        )
    if reason := reason_not_to_keep(cls):
        raise UsageError(f"{path}: a model of {config.method} cannot be used: {reason}")
    if config.method_code and not _is_code_of_fit(config, cls, given is not None):
        warn(
            f"{path}: the code of {config.method} is not that of the fit "
            f"({config.method_origin or 'unknown'}); its answers may differ"
        )
    return _configure(path, config, cls)


def _find_class(path: Path, config: ModelConfig) -> type:
    plugins, name = registry(), config.method
    if name in plugins.methods.entries:
        return plugins.method_class(name)
    if spot := parts(name):
        raise UsageError(
            f"{path}: its method is class {spot[1]} of {Path(spot[0]).name}, which no plug-in "
            f"registers, and files that a model names are not run: load it in Python with "
            f"method={spot[1]}"
        )
    error = plugins.methods.unknown(name, plugins.methods.entries, "fsbench list methods")
    raise UsageError(f"{path}: {error}; install its plug-in, or load_model(..., method=Class)")


def _check_class(path: Path, config: ModelConfig, given: type) -> type:
    """The class that was handed over; UsageError if it has not the name of the method."""
    if not isinstance(given, type) or not callable(getattr(given, "fit", None)):
        raise UsageError(f"method={given!r:.80}: expected the class of a method")
    spot = parts(config.method)
    expected, name = spot[1] if spot else config.method, given.__name__
    if expected not in (name, getattr(given, "name", name)):
        raise UsageError(
            f"{path} was fitted by {config.method}, method={name} is another class; pass {expected}"
        )
    return given


def _is_code_of_fit(config: ModelConfig, cls: type, given: bool) -> bool:
    """True if the source of a class is that of the fit.

    `fewshot_bench.run` writes a class of a session to a file of the store. Its digest says nothing
    about the session, so the functions of the class are looked up in that file.
    """
    if method_code.running_digest(cls) == config.method_code:
        return True
    spot = parts(config.method)
    if not given or spot is None:
        return False
    try:
        written = Path(spot[0]).read_text(encoding="utf-8")
        return all(source in written for source in _sources(cls))
    except (OSError, ValueError, TypeError):
        return False


def _sources(cls: type) -> Iterator[str]:
    """The source of each function of a class; OSError or TypeError if one has none."""
    for member in vars(cls).values():
        inner = (getattr(member, name, None) for name in ("fget", "func", "__func__"))
        function = next(filter(None, inner), member)
        # What `dataclass` makes is no source of the author.
        if inspect.isfunction(function) and function.__code__.co_filename not in _MADE:
            yield inspect.getsource(function).rstrip()


def _configure(path: Path, config: ModelConfig, cls: type) -> Any:
    parameters = {parameter.name: parameter for parameter in hyperparameters(cls)}
    differing = sorted(set(parameters) ^ set(config.options))
    if differing:
        raise StoreError(
            f"{path} and the installed {config.method} have other hyper-parameters "
            f"({', '.join(differing)}); fit again"
        )
    try:
        options = {
            name: convert_value(config.method, parameters[name], value)
            for name, value in config.options.items()
        }
        with plugin_code():
            return cls(**options)
    except (Exception, SystemExit) as error:
        raise StoreError(f"{path}: {error_line(error)}") from error


def error_line(error: BaseException) -> str:
    """An error in one line; errors of libraries and plug-ins with their type, cut short."""
    words = " ".join(str(error).split())
    return words if isinstance(error, FsbenchError) else f"{type(error).__name__}: {words:.160}"
