"""The files of a new package, from the templates beside this module."""

from __future__ import annotations

import io
import shutil
import tokenize
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from string import Template

from fewshot_bench import __version__
from fewshot_bench.plugins.new.names import Names
from fewshot_bench.plugins.new.sample_images import sample_images
from fewshot_bench.utils.errors import UsageError

TEMPLATES = Path(__file__).parent / "templates"
# Templates of every package; those of a kind are in a folder of its name.
SHARED = "package"
ENDING = ".template"
# Names in the tree of templates, and what they are in a package.
MODULE, HIDDEN = "module", ("gitignore",)


def render(kind: str, a_kind: str, names: Names) -> Mapping[str, bytes]:
    """The content of every file of a package, by its path in there."""
    values = asdict(names) | {"a_kind": a_kind, "version": __version__}
    _check_class(kind, names)
    parts = {MODULE: names.module, **{name: f".{name}" for name in HIDDEN}}
    files = {}
    for folder in (TEMPLATES / SHARED, TEMPLATES / kind):
        for source in sorted(folder.rglob(f"*{ENDING}")):
            path = source.relative_to(folder).as_posix().removesuffix(ENDING).split("/")
            target = "/".join(parts.get(part, part) for part in path)
            files[target] = _fill(source, values).encode()
    if kind == "dataset":
        files |= {f"{names.module}/images/{path}": png for path, png in sample_images().items()}
    return files


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a folder, which must not exist; UsageError if it cannot be made.

    Nothing is left if that fails half way.
    """
    if folder.exists():
        raise UsageError(
            f"'{folder}' is there already, and nothing is overwritten: remove it, or go to another "
            "folder"
        )
    try:
        folder.mkdir()
    except OSError as error:
        raise UsageError(
            f"the folder '{folder}' cannot be made in {Path.cwd()}: {error.strerror}; go to a "
            "folder that you may write to"
        ) from None
    try:
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(source: Path, values: Mapping[str, str]) -> str:
    return Template(source.read_text(encoding="utf-8")).substitute(values)


def _check_class(kind: str, names: Names) -> None:
    """UsageError if the code of the package uses the name of its class for something else."""
    values = asdict(names) | {"a_kind": "", "class_name": "_"}
    for source in (TEMPLATES / kind).rglob(f"*.py{ENDING}"):
        code = io.StringIO(_fill(source, values))
        words = {token.string for token in tokenize.generate_tokens(code.readline)}
        if names.class_name in words:
            raise UsageError(
                f"'{names.name}': its class would be {names.class_name}, which the package needs "
                f"for something else; choose another name, such as 'my-{names.name}'"
            )
