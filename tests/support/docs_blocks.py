"""Run the blocks of a page of the docs, in order, in an empty folder.

```bash``` and ```python``` blocks run; `$ fsbench ...` lines of ```console``` blocks are parsed. An
`fsbench` line runs in this process, as does a plain `cd` or `export`; any other line runs in bash.
`# exits with 1` at the end of a line states another exit code than 0. A python block that starts
with a comment that is a file name (`# prototype.py`) is written to that file; all others share one
namespace. The folder holds what pages may name: see `furnish`.

`python -m tests.support.docs_blocks docs/tutorials/first-run.md` runs a page and prints the time
of each block.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import linecache
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
from PIL import Image

from fewshot_bench.api.registry import registry
from fewshot_bench.cli import demo
from fewshot_bench.cli.main import cli
from tests.support.dataset_trees import write_set
from tests.support.helpers import PATIENCE, fsbench

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<kind>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
# The kinds of blocks that a page may have, beside directives such as `{dropdown}`.
KINDS = {"bash", "python", "console", "text"}
KINDS |= {"json", "toml", "yaml", "csv", "latex", "bibtex", "markdown", "html", "ini", "diff"}
EXIT = re.compile(r"\s+# exits with (\d+)$")
# Of a number that is given for a name or a path, nothing can be said without running.
PLAIN = (
    click.Choice,
    click.types.IntParamType,
    click.types.FloatParamType,
    click.types.BoolParamType,
)
# Words that stand for others: `STORE`, `<name>`, `...`, `$HOME`.
STANDS_FOR = re.compile(r"\.\.\.|…|[A-Z][A-Z0-9_]*|<.*>|.*\$.*")


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the line where it starts."""

    kind: str
    text: str
    line: int


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, also those inside of folded parts."""
    return [
        Block(
            found["kind"].strip(),
            textwrap.dedent(found["text"]),
            page.count("\n", 0, found.start()) + 1,
        )
        for found in BLOCK.finditer(page)
    ]


def furnish(folder: Path) -> None:
    """Write what pages may name: two public sets, two kinds of photographs, a method in a file."""
    for name in ("dtd", "eurosat"):
        write_set(folder / "data", name)
    for number, name in enumerate(("photos/cat", "photos/dog", "new")):
        (folder / name).mkdir(parents=True)
        for index in range(4 if name == "new" else 10):
            rng = np.random.default_rng(100 * number + index)
            pixels = rng.integers(0, 120, (32, 40, 3), dtype=np.uint8)
            pixels[:, :, number if name != "new" else index % 2] += 120
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg", quality=90)
    tutorial = (DOCS / "tutorials" / "own-method.md").read_text(encoding="utf-8")
    (method,) = (b.text for b in blocks_of(tutorial) if b.text.startswith("# prototype.py\n"))
    (folder / "prototype.py").write_text(method, encoding="utf-8")


def statements(text: str) -> list[str]:
    """The commands of a bash block: continued lines and here documents are one."""
    found: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while line.endswith("\\"):
            line = f"{line[:-1].rstrip()} {next(lines).strip()}"
        if here := re.search(r"<<-?\s*(['\"]?)(\w+)\1", line):
            for inner in lines:
                line += f"\n{inner}"
                if inner.strip() == here[2]:
                    break
        elif re.match(r"(for|while|if)\b", line):
            for inner in lines:
                line += f"\n{inner}"
                if inner in ("done", "fi"):
                    break
        found.append(line)
    return found


@dataclass
class Reader:
    """Someone who types the blocks of a page in a folder of their own."""

    folder: Path
    patch: pytest.MonkeyPatch
    seconds: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._main = ModuleType("__main__")
        # As in a notebook: a class's source is found under the name of its block.
        self.patch.setitem(sys.modules, "__main__", self._main)
        self.patch.chdir(self.folder)
        # A notebook finds modules beside it.
        self.patch.syspath_prepend(str(self.folder))
        self.patch.delitem(sys.modules, "prototype", raising=False)
        self.patch.setenv("FSBENCH_DATA", "data")
        self.patch.setenv("COLUMNS", "100")
        scripts = Path(sys.executable).parent
        self.patch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}")
        self.patch.setattr(demo, "METHODS", ("zero-shot",))
        self.patch.setattr(webbrowser, "open", lambda uri: True)

    def read(self, page: str) -> None:
        """Run or parse all blocks of a page; AssertionError names the line that fails."""
        for block in blocks_of(page):
            start = time.perf_counter()
            if block.kind == "bash":
                for statement in statements(block.text):
                    self._type(statement, block.line)
            elif block.kind == "python":
                self._execute(block)
            elif block.kind == "console":
                parse_console(block)
            self.seconds[block.line] = time.perf_counter() - start

    def _type(self, statement: str, line: int) -> None:
        expected = int(found[1]) if (found := EXIT.search(statement)) else 0
        statement = EXIT.sub("", statement)
        code, told = self._run(statement)
        assert code == expected, f"line {line}: `{statement}` exits with {code}:\n{told}"

    def _run(self, statement: str) -> tuple[int, str]:
        words = _words(statement)
        match words:
            case ["cd", folder]:
                self.patch.chdir(folder)
                return 0, ""
            case ["export", setting] if "=" in setting and "$" not in setting:
                self.patch.setenv(*setting.split("=", 1))
                return 0, ""
            case ["pip", "install", *_, package] if Path(package).is_dir():
                return self._install(Path(package))
            case ["fsbench", *arguments] if not _is_for_a_shell(statement):
                done = fsbench(*_expand(arguments))
                return done.code, done.out + done.err
        # Output that goes on into a file or another command.
        found = re.match(r"(fsbench [^|>;&$`]+?)\s*((?<!\d)[|>].*)$", statement, re.DOTALL)
        if found and not re.search(r"\d>", statement):
            done = fsbench(*_expand(_words(found[1])[1:]))
            code, told = _bash(f"cat {found[2]}", done.out)
            return done.code or code, done.err + told
        return _bash(statement)

    def _install(self, package: Path) -> tuple[int, str]:
        """Install a package in a folder of its own, which this process and its children see."""
        target = Path(tempfile.mkdtemp(dir=self.folder, prefix=".site-"))
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
        code, told = _bash(
            shlex.join([sys.executable, "-m", "pip", "install", *options, str(package)])
        )
        self.patch.syspath_prepend(str(target))
        before = os.environ.get("PYTHONPATH")
        self.patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(target), before))))
        registry.cache_clear()
        return code, told

    def _execute(self, block: Block) -> None:
        """Run a block of Python, or write it to the file that its first line names."""
        first = block.text.split("\n", 1)[0]
        if named := re.fullmatch(r"# ([\w./-]+\.py)", first):
            path = Path(named[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            compile(block.text, named[1], "exec")
            return
        name = f"<block at line {block.line}>"
        linecache.cache[name] = (len(block.text), None, block.text.splitlines(True), name)
        try:
            if first.startswith(">>>"):
                _check_session(block, self._main.__dict__)
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(block.text, name, "exec"), self._main.__dict__)
        except Exception as error:
            raise AssertionError(f"line {block.line}: {type(error).__name__}: {error}") from error


def _check_session(block: Block, names: dict[str, Any]) -> None:
    """Run the `>>>` lines of a block and compare what they print."""
    test = doctest.DocTestParser().get_doctest(block.text, names, "block", "page", block.line)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    told = io.StringIO()
    runner.run(test, out=told.write, clear_globs=False)
    names.update(test.globs)
    assert not runner.failures, told.getvalue()


def _words(statement: str) -> list[str]:
    with contextlib.suppress(ValueError):
        return shlex.split(statement, comments=True)
    return []


def _is_for_a_shell(statement: str) -> bool:
    """True if a line has what only a shell understands: `|`, `>`, `&&`, `;`, `$`."""
    try:
        parts = shlex.shlex(statement, posix=True, punctuation_chars=True)
        parts.whitespace_split = True
        words = list(parts)
    except ValueError:
        return True
    return any(re.fullmatch(r"[|><&;()]+", word) for word in words) or bool(
        re.search(r"\$[\w({]|`", re.sub(r"'[^']*'", "", statement))
    )


def _expand(words: list[str]) -> list[str]:
    """Words with the files that patterns match, as a shell gives them."""
    found: list[str] = []
    for word in words:
        is_pattern = re.search(r"[*?]", word) and "=" not in word
        found += (sorted(map(str, Path().glob(word))) if is_pattern else ()) or [word]
    return found


def _bash(statement: str, given: str = "") -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", statement],
        input=given, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def parse_console(block: Block) -> None:
    """Parse the `fsbench` lines of a session; AssertionError for a line that cannot be right."""
    lines = iter(block.text.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        line = line[2:]
        while line.endswith("\\"):
            line = f"{line[:-1].rstrip()} {next(lines, '').removeprefix('> ').strip()}"
        for command in commands_in(line):
            problem = problem_of(command)
            assert not problem, f"line {block.line}: `{line}`: {problem}"


def commands_in(line: str) -> Iterator[list[str]]:
    """The words of every `fsbench` command of a line, up to what a shell takes."""
    try:
        parts = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        parts.whitespace_split = True
        words = list(parts)
    except ValueError:
        return
    while "fsbench" in words:
        words = words[words.index("fsbench") + 1 :]
        ends = [i for i, word in enumerate(words) if re.fullmatch(r"[|&;<>()]+", word)]
        end = min(ends, default=len(words))
        yield words[:end]


def problem_of(words: list[str], *, whole: bool = True) -> str:
    """What is wrong with the words after `fsbench`; empty if all options and choices exist.

    whole: False if required arguments may be missing, as where prose names a command.
    """
    command: click.Command = cli
    context = click.Context(cli, info_name="fsbench")
    while isinstance(command, click.Group):
        while words and words[0] in ("--offline", "--version", "--help", "-h"):
            words = words[1:]
        if not words:
            return ""
        if STANDS_FOR.fullmatch(words[0]):
            return ""
        inner = command.get_command(context, words[0])
        if inner is None:
            return f"there is no command '{words[0]}'"
        context = click.Context(inner, info_name=words[0], parent=context)
        command, words = inner, words[1:]
    # What stands after an option is its value: `-m ...`.
    before = ["", *words]
    words = [
        word
        for last, word in zip(before, words, strict=False)
        if word not in ("...", "…") or last.startswith("-")
    ]
    return _problem(command, context, words, whole)


def _problem(command: click.Command, context: click.Context, words: list[str], whole: bool) -> str:
    if {"--help", "-h"} & {*words}:
        return ""
    try:
        given, rest, _ = command.make_parser(context).parse_args([*words])
        if rest and whole and not command.allow_extra_args:
            return f"{rest[0]!r} is one argument too many"
        for parameter in command.get_params(context):
            value = given.get(parameter.name or "")
            if value is None or value == ():
                if whole and parameter.required:
                    return f"{parameter.name} is missing"
                continue
            if isinstance(parameter.type, PLAIN) and isinstance(value, str | list | tuple):
                for one in [value] if isinstance(value, str) else value:
                    if isinstance(one, str) and not STANDS_FOR.fullmatch(one):
                        parameter.type.convert(one, parameter, context)
    except click.BadOptionUsage as error:
        return error.format_message() if whole else ""
    except click.UsageError as error:
        return error.format_message()
    return ""


def read_page(page: Path, folder: Path) -> dict[int, float]:
    """Run a page in an empty folder; the seconds of each block, by line."""
    furnish(folder)
    modules = {*sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        reader = Reader(folder, patch)
        try:
            reader.read(page.read_text(encoding="utf-8"))
        finally:
            patch.undo()
            registry.cache_clear()
            for name in {*sys.modules} - modules:
                found = getattr(sys.modules[name], "__file__", None) or ""
                if found.startswith(str(folder)):
                    del sys.modules[name]
    return reader.seconds


def main() -> None:
    """Run the pages that are named, with the time of each block."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            seconds = read_page(Path(name).resolve(), Path(folder))
        print(f"{name}: {sum(seconds.values()):.1f} s")
        for line, spent in seconds.items():
            print(f"  line {line}: {spent:.1f} s")


if __name__ == "__main__":
    main()
