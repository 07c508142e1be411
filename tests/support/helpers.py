"""Helpers for all tests: the command line, cells, a plug-in and image folders."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.store.store import Store
from tests.support.answers import stored_arrays

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = ("zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "coop", "clip-lora")
QUICK = (
    "clip-lora.iterations=2",
    "coop.epochs=1",
    "coop.context_tokens=4",
    "tip-adapter-f.epochs=1",
    "linear-probe.search_steps=0",
)
MODULE = "fsbench_misbehaving"
# Timeout in seconds for events that must happen, however busy the machine is.
PATIENCE = 1500.0


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def fsbench(*arguments: object) -> Result:
    """Run the command line in this process."""
    from fewshot_bench.cli.main import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["fsbench", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def command(*arguments: object) -> list[str]:
    """The command line as a subprocess command."""
    code = "from fewshot_bench.cli.main import main; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command line as a subprocess; output is captured by default."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command(*arguments), text=True, **options)


def problems(err: str) -> list[str]:
    """The lines of stderr that are not about the progress of a run."""
    return [line for line in err.splitlines() if not line.startswith("run: ")]


def quick(methods: Sequence[str]) -> tuple[str, ...]:
    """The quick option settings of these methods."""
    return tuple(option for option in QUICK if option.partition(".")[0] in methods)


def flags(options: Sequence[str]) -> list[str]:
    """Option settings as `-o` arguments."""
    return [part for option in options for part in ("-o", option)]


def inductive() -> set[str]:
    """The methods that see a query alone, which any run allows."""
    catalog = registry()
    names = catalog.methods.names()
    return {name for name in names if read_card(catalog.method_class(name)).sees == "query"}


def cells(*methods: str, options: Sequence[str] = (), **request: Any) -> list[RunSpec]:
    """Cells on digits; by default one shot, one seed, 40 test images."""
    few = {"datasets": ("digits",), "shots": (1,), "seeds": (1,), "limit": 40}
    values = few | {"backbone": "tiny"} | request
    return expand(Request(methods=methods, options=tuple(options), **values)).cells


def install_methods(folder: Path, module: str = MODULE, source: str = "plugin_methods") -> None:
    """Install a plug-in of `tests/`, a file or a folder, into `folder` as an installer would."""
    found = Path(__file__).parent / source
    if found.is_dir():
        shutil.copytree(found, folder / module, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(found, folder / f"{module}.py")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    points = f"[fewshot_bench]\n{module} = {module}\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")


def save_image(path: Path, seed: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> None:
    """Write a noise image in the format of the file suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def image_folder(root: Path, train: int = 4, test: int = 6) -> Path:
    """Write two classes of distinct images in train/, val/ and test/."""
    for number, (role, count) in enumerate((("train", train), ("val", 2), ("test", test))):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                seed = 1000 * number + 100 * label + index
                save_image(root / role / name / f"{index}.jpg", seed)
    return root


def record_files(store: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every record and logits file, by name."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (store / "records").rglob("*")
        if path.suffix in (".json", ".npz") and not path.name.startswith(".")
    }


def assert_sound(store: Path, specs: Sequence[RunSpec]) -> None:
    """Assert that every cell is done and undamaged, and that the store holds nothing else."""
    opened = Store(store)
    for spec in specs:
        assert opened.complete(spec.key()), spec.describe()
        arrays = stored_arrays(opened, spec.key())
        assert len(arrays["ids"]) == len(set(arrays["ids"])) == len(arrays["logits"])
    assert len(list(opened.records())) == len(specs)
    assert not opened.damaged


def wait_until(done: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Poll until `done` returns true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Running descendants of a process."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def is_running(pid: int) -> bool:
    """True if a process exists and is not a zombie."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with changes."""
    return dict(os.environ) | more


def forbid(monkeypatch: pytest.MonkeyPatch, locked: Path, name: str) -> None:
    """Let the method `name` of `Path` refuse a file, which the superuser may read otherwise."""
    method = getattr(Path, name)

    def refused(path: Path, *args: Any, **others: Any) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return method(path, *args, **others)

    monkeypatch.setattr(Path, name, refused)
