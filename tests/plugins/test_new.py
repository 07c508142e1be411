"""`fsbench new`: the package of each kind is found by its name, and its example is right."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.base import EngineSetup
from fewshot_bench.plugins.new.names import LONGEST
from fewshot_bench.store.store import Store
from fewshot_bench.testing import CheckSkipped, all_checks
from fewshot_bench.utils.errors import UsageError
from tests.support.helpers import REPOSITORY, fsbench

# Folders by kind, and the name that is asked for.
PACKAGES = {
    "method": ("my-method", "My method"),
    "dataset": ("my-dataset", "my_dataset"),
    "metric": ("my_metric", "my-metric"),
    "engine": ("my-engine", "My-Engine"),
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a package of each kind, all of them installed here."""
    root = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for kind, (folder, name) in PACKAGES.items():
            done = fsbench("new", kind, name)
            assert done.code == 0, done
            assert f"pip install -e {folder}/" in done.out
            patch.syspath_prepend(str(installed(root / folder)))
        registry.cache_clear()
        yield root
    registry.cache_clear()
    for name in [name for name in sys.modules if name.startswith("fsbench_my_")]:
        del sys.modules[name]


def installed(package: Path) -> Path:
    """The folder of a package, with what an installer writes beside its module."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    points = "".join(
        f"{name} = {target}\n" for name, target in project["entry-points"]["fewshot_bench"].items()
    )
    (info / "entry_points.txt").write_text(f"[fewshot_bench]\n{points}", encoding="utf-8")
    return package


def test_a_package_has_code_tests_and_a_page(packages: Path) -> None:
    for kind, (folder, _) in PACKAGES.items():
        files = {
            path.relative_to(packages / folder).as_posix()
            for path in (packages / folder).rglob("*")
            if path.is_file() and not {"images", "__pycache__"} & set(path.parts)
        }
        module = f"fsbench_{folder.replace('-', '_')}"
        assert {name for name in files if ".dist-info/" not in name} == {
            *(".gitignore", "README.md", "pyproject.toml", f"tests/test_{kind}.py"),
            *(f"{module}/{name}.py" for name in ("__init__", "plugin", kind)),
        }
        assert len((packages / folder / "README.md").read_text(encoding="utf-8").split("\n")) < 32


def test_the_method_keeps_the_rules_and_says_what_it_trains(packages: Path) -> None:
    method: Any = registry().method_class("my-method")
    assert method.__name__ == "MyMethod"
    short, tried = method(steps=20), []
    for check in all_checks():
        # Starts a process; the classifier is the one of many methods.
        if not check.name.startswith("check_restored"):
            with contextlib.suppress(CheckSkipped):
                check(short)
                tried.append(check.name)
    assert "check_trained_parameters_are_stored" in tried


def test_the_data_set_lists_images_of_its_classes(packages: Path) -> None:
    data = registry().dataset("my-dataset")
    pools, names = data.items(), data.card().classnames
    assert {pool: len(items) for pool, items in pools.items()} == {
        "train": 48,
        "val": 12,
        "test": 30,
    }
    for item in pools["val"]:
        with Image.open(io.BytesIO(data.read(item))) as image:
            red, green, blue = np.asarray(image, float).mean((0, 1))
        assert {"red": red, "green": green, "blue": blue}[names[item.label]] == max(
            red, green, blue
        )


def test_the_metric_is_computed_from_stored_answers(packages: Path) -> None:
    metric = registry().metric("my_metric")
    logits = np.tile(np.arange(6.0), (4, 1))
    answers = Answers.of(logits, np.array([5, 3, 2, 0]))
    assert metric.value(answers) == 50
    assert metric.by_image(answers).tolist() == [1, 1, 0, 0]


def test_the_engine_takes_the_options_of_a_run(packages: Path, tmp_path: Path) -> None:
    entry = registry().engines.find("my-engine")
    assert {option.name for option in entry.options} == {"launcher", "launch"}
    build, store = entry.load(), Store(tmp_path)
    engine = build(EngineSetup(store, options={"launcher": "nice -n 10", "launch": 2}))
    assert (engine.workers, engine.system.launcher) == (2, ["nice", "-n", "10"])
    with pytest.raises(UsageError, match="--launcher"):
        build(EngineSetup(store, options={"launcher": "'", "launch": 1}))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-dataset", "a registered data set, and the kit checks methods (fsbench data verify"),
        ("my-engine", "a registered engine, and the kit checks methods (fsbench list methods"),
    ],
)
def test_check_says_what_is_no_method(packages: Path, name: str, reason: str) -> None:
    refused = fsbench("check", name)
    assert refused.code == 2
    assert reason in refused.err


def test_the_code_of_short_and_long_names_is_well_formed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("needs ruff")
    monkeypatch.chdir(tmp_path)
    folders = []
    for kind in PACKAGES:
        for name in (kind[-1], f"{kind}-".ljust(LONGEST, "m")):
            done = fsbench("new", kind, name)
            assert done.code == 0, done
            folders.append(name.replace("-", "_") if kind == "metric" else name)
    for own in ((), ("--config", str(REPOSITORY / "pyproject.toml"))):
        for check in (("check", "--config", f"src = {folders}"), ("format", "--check")):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *check, *own, "--no-cache", "."],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def test_new_alone_lists_the_kinds() -> None:
    listed = fsbench("new")
    assert listed.code == 2
    assert all(f"\n  {kind} " in listed.err for kind in PACKAGES)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("method", "clip-lora", "the method 'clip-lora' is built in"),
        ("method", "CLIP LoRA", "the method 'clip-lora' is built in"),
        ("method", "all", "'all' is a suite of methods"),
        ("method", "None", "a word of Python"),
        ("method", "task", "its class would be Task"),
        ("method", "methods", "its module would be fsbench_methods, which is installed"),
        ("method", "../mine", "a letter first"),
        ("method", "3 shots", "a letter first"),
        ("method", "m" * 29, "29 characters"),
        ("dataset", "folder", "the data set 'folder:' is built in"),
        ("metric", "top1 mean", "a column 'top1_mean'"),
        ("engine", "slurm", "the engine 'slurm' is built in"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(
    kind: str, name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = fsbench("new", kind, name)
    assert (refused.code, refused.out) == (2, "")
    assert reason in refused.err
    assert not list(tmp_path.iterdir())


def test_a_name_of_an_installed_module_gets_a_module_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fsbench("new", "method", "torch").code == 0
    assert (tmp_path / "torch" / "fsbench_torch" / "method.py").is_file()


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    refused = fsbench("new", "engine", "mine")
    assert refused.code == 2
    assert "nothing is overwritten" in refused.err
    assert not list((tmp_path / "mine").iterdir())


def test_a_disk_that_takes_no_more_leaves_no_half_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "plugin.py":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert fsbench("new", "metric", "mine").code == 1
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(path: Path, *args: Any, **others: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused = fsbench("new", "metric", "mine")
    assert refused.code == 2
    assert f"in {tmp_path}: Read-only file system; go to" in refused.err
