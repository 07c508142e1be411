"""Locate errors: `author_frame` finds the innermost traceback frame in a plug-in author's files."""

from __future__ import annotations

import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path, PurePath

# A frame as Python prints it for exceptions, or (without the comma) faulthandler in its dumps.
_FRAME = re.compile(r'^ +File "([^"\n]+)", line (\d+)(,?) in (.+)$', re.MULTILINE)
_OURS = Path(__file__).parents[1].as_posix()
_PYTHON = Path(sysconfig.get_path("stdlib")).as_posix()
# Folders of installed packages and of Python itself, on this machine or another one.
_INSTALLED = re.compile(r"/(?:(?:site|dist)-packages|lib/python3[.\d]*)(?=/)")
# Files that are not an author's: of the harness, Python, built-in plug-ins, installed packages.
_LIBRARY = re.compile(
    rf"^(?:{re.escape(_OURS)}/|{re.escape(_PYTHON)}/|<)|/fsbench_(?:methods|datasets)/"
    rf"|{_INSTALLED.pattern}"
)


def author_frame(trace: str, packages: Iterable[str]) -> str:
    """`file:line in function` of the innermost traceback frame in a module of `packages`.

    packages: top-level module names from `top_module`. If none of them occurs, the innermost frame
    outside of the harness, the built-in methods, Python and installed libraries; empty if there is
    none.
    """
    matches = _FRAME.findall(trace)
    # A dump lists the innermost frame first.
    frames = [frame for frame in matches if not frame[2]][::-1]
    frames += [frame for frame in matches if frame[2]]
    names = set(filter(None, packages))
    own = [frame for frame in frames if names & _modules(frame[0])]
    own = own or [frame for frame in frames if not _LIBRARY.search(PurePath(frame[0]).as_posix())]
    if not own:
        return ""
    file, line, _, function = own[-1]
    return f"{short_path(file)}:{line} in {function.strip()}"


def is_author_file(file: str, packages: Iterable[str]) -> bool:
    """True for a file of `packages`, and for any that no installed package or Python itself has."""
    own = set(filter(None, packages)) & _modules(file)
    return bool(own) or not _LIBRARY.search(PurePath(file).as_posix())


def is_harness_file(file: str) -> bool:
    """True for a file of the harness."""
    return PurePath(file).as_posix().startswith(f"{_OURS}/")


def error_text(error: BaseException, target: object) -> str:
    """Type, message and author's frame of an error raised by the code of a registered `target`."""
    trace = "".join(traceback.format_exception(error))
    frame = author_frame(trace, [top_module(target)])
    return f"{type(error).__name__}: {error}{f', at {frame}' if frame else ''}"


def top_module(target: object) -> str:
    """The top-level module of a registered class, function or "module:attribute"."""
    module = target if isinstance(target, str) else str(getattr(target, "__module__", ""))
    return module.partition(":")[0].partition(".")[0]


def definition(function: object) -> str:
    """`file:line in function` of a function's definition; empty if its source is unknown."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return f"{short_path(code.co_filename)}:{code.co_firstlineno} in {code.co_name}" if code else ""


def class_place(kind: type, reason: str = "") -> str:
    """`file:line` of the attribute that `reason` names as `Class.name`, or of the class.

    Empty if its source is unknown.
    """
    try:
        lines, first = inspect.getsourcelines(kind)
        file = short_path(inspect.getfile(kind))
    except (OSError, TypeError):
        return ""
    # A metaclass may have another idea of a name.
    name = re.escape(type.__dict__["__name__"].__get__(kind))
    named = re.search(rf"\b{name}\.(\w+)", reason)
    for pattern in (rf" +(def )?{named[1]}\b" if named else "(?!)", " *class "):
        for at, line in enumerate(lines, first):
            if re.match(pattern, line):
                return f"{file}:{at}"
    return f"{file}:{first}"


def place_of(kind: type, *functions: object) -> str:
    """`file:line in function` of the first function by the author of `kind`, or the class's place.

    A function that the class or its results inherit from another package is not the author's.
    """
    own = (
        function
        for function in functions
        if callable(function) and top_module(function) == top_module(kind)
    )
    return next(filter(None, map(definition, own)), "") or class_place(kind)


def short_path(file: str) -> str:
    """A path relative to the working directory if it is below it, else unchanged."""
    try:
        return Path(file).relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return file


def _modules(file: str) -> set[str]:
    """Candidate names of a file's top-level module, from its path.

    For an installed file the first name below the folder of packages, else all folders and the
    stem: where a project begins is not known.
    """
    path = PurePath(file).with_suffix("")
    if PurePath(file).suffix != ".py":
        return set()
    if path.as_posix().startswith(f"{_OURS}/"):
        return {PurePath(_OURS).name}
    roots = [match.end() for match in _INSTALLED.finditer(path.as_posix())]
    return {path.as_posix()[roots[-1] + 1 :].split("/")[0]} if roots else set(path.parts)
