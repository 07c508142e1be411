"""Import rules, packaging, and texts that are forbidden in the tree."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

from fewshot_bench.api.plugins import Hooks
from scripts.faces import FACES
from tests.support.helpers import REPOSITORY

PACKAGES = {
    "fewshot_bench": REPOSITORY / "fewshot_bench",
    "fsbench_methods": REPOSITORY / "methods" / "fsbench_methods",
    "fsbench_datasets": REPOSITORY / "datasets" / "fsbench_datasets",
}
FILES = [path for root in PACKAGES.values() for path in sorted(root.rglob("*.py"))]
CORE = [path for path in FILES if PACKAGES["fewshot_bench"] in path.parents]
FOLDERS = ("tests", "benchmarks", "scripts")
BESIDE = [path for name in FOLDERS for path in sorted((REPOSITORY / name).rglob("*.py"))]
PLUGINS = [path for path in FILES if path not in CORE]
# A room (subpackage) may import only rooms of lower floors; the face (`fewshot_bench/__init__.py`)
# is for plug-ins and users, not for the rooms.
FLOORS = {
    "utils": 1,
    "api": 2,
    "splits": 3,
    "profiling": 3,
    "backbones": 4,
    "images": 4,
    "store": 4,
    "training": 4,
    "runner": 5,
    "analysis": 5,
    "engines": 6,
    "testing": 6,
    "cli": 7,
    "plugins": 8,
}
# Imports that the floors allow but the design forbids: (room, room that it may not import).
APART = {("testing", "store"), ("testing", "analysis")}
# Rooms whose import must not load torch.
LIGHT = ("utils", "api", "splits", "store", "analysis", "cli", "plugins")
MAX_ENTRIES = 14


def name_of(path: Path) -> str:
    """Path relative to the repository, such as `fewshot_bench/cli/run.py`."""
    return path.relative_to(REPOSITORY).as_posix()


def imports(tree: ast.AST, *, at_import_time: bool) -> Iterator[tuple[str, str]]:
    """(module, name) of every import; `at_import_time` leaves out functions and TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif (at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)) or (
            at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            continue
        else:
            yield from imports(node, at_import_time=at_import_time)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path, *, at_import_time: bool = False) -> set[tuple[str, str]]:
    """The imports of a file."""
    return set(imports(tree_of(path), at_import_time=at_import_time))


def top(module: str) -> str:
    """First component of a module name, roughly its distribution."""
    return module.partition(".")[0]


# A test per rule, not per file and rule: these were a quarter of all tests.
def test_the_core_never_imports_its_plugins() -> None:
    found = [(name_of(path), m) for path in CORE for m, _ in imported(path)]
    assert not [one for one in found if top(one[1]).startswith("fsbench_")]


def test_plugins_import_public_names_only() -> None:
    wrong = []
    for path in PLUGINS:
        own = path.relative_to(REPOSITORY).parts[1]
        foreign = {"fsbench_methods", "fsbench_datasets", "open_clip"} - {own}
        for module, name in imported(path):
            public = top(module) != "fewshot_bench" or (
                module in FACES and name in importlib.import_module(module).__all__
            )
            if not public or top(module) in foreign:
                wrong.append((name_of(path), module, name))
    assert not wrong


def test_open_clip_is_imported_in_few_places() -> None:
    def importing(*, at_import_time: bool) -> set[str]:
        return {
            path.relative_to(PACKAGES["fewshot_bench"]).as_posix()
            for path in CORE
            if "open_clip" in {top(m) for m, _ in imported(path, at_import_time=at_import_time)}
        }

    allowed = {"backbones/loading.py", "backbones/embedded.py", "testing/toy.py"}
    assert not importing(at_import_time=False) - allowed
    assert not importing(at_import_time=True)


def room_of(path: Path) -> str:
    """The room of a core file; empty for the face and `__main__`."""
    parts = path.relative_to(PACKAGES["fewshot_bench"]).with_suffix("").parts
    return "" if parts[0] in ("__init__", "__main__") else parts[0]


def rooms_imported(path: Path) -> set[str]:
    """Rooms imported by a file, including inside functions; "" means the face."""
    found = set()
    for module, name in imported(path):
        if top(module) == "fewshot_bench":
            target = (module.split(".") + [name])[1]
            found.add(target if target in FLOORS else "")
    return found


def test_the_house_has_these_rooms() -> None:
    entries = {path.name for path in PACKAGES["fewshot_bench"].iterdir()}
    entries -= {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    assert entries == {name for name in FLOORS if name in entries}
    assert len(entries) <= MAX_ENTRIES
    assert max(FLOORS.values()) <= 8


def test_no_import_runs_up() -> None:
    """Every import between rooms goes to a lower floor, which also excludes cycles."""
    wrong = []
    for path in CORE:
        room = room_of(path)
        for target in rooms_imported(path) - {room} if room else ():
            allowed = FLOORS[target] < FLOORS[room] if target else room == "plugins"
            if not allowed or (room, target) in APART:
                wrong.append(f"{name_of(path)} imports {target or 'the face'}")
    assert not wrong


def file_of(module: str, name: str) -> Path | None:
    """The core file that an import reads: the module `name` in a package, or the module itself."""
    base = REPOSITORY.joinpath(*module.split("."))
    options = (base / f"{name}.py", base / name / "__init__.py", base.with_suffix(".py"))
    return next((path for path in (*options, base / "__init__.py") if path in CORE), None)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Also not inside functions or for types alone."""
    above = {path: {file_of(*found) for found in imported(path)} - {None, path} for path in CORE}
    list(TopologicalSorter(above).static_order())


def light_modules() -> list[str]:
    """Modules of the light rooms, which must not load torch or pandas."""
    root = PACKAGES["fewshot_bench"]
    found = [path for room in LIGHT for path in (root / room).rglob("*.py")]
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in found]
    return [name for name in sorted(names) if not name.endswith("__init__")]


def test_light_modules_do_not_import_torch_or_pandas() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'torch', 'open_clip', 'sklearn', 'pandas'} & set(sys.modules), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *light_modules()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# What may tell kinds of devices apart: the module that knows them all, NVIDIA's library, and what
# hears waits, since CUDA alone reports them.
KNOWING = (
    "fewshot_bench/utils/devices.py",
    "fewshot_bench/utils/nvidia.py",
    "fewshot_bench/testing/rehearsal/waits.py",
)
KINDS = ("cuda", "xpu", "mps")


def names_a_kind(node: ast.AST) -> bool:
    """True for `torch.cuda`, `is_cuda`, and comparisons with a kind of device."""
    if isinstance(node, ast.Attribute):
        is_torch = isinstance(node.value, ast.Name) and node.value.id == "torch"
        return node.attr in {f"is_{kind}" for kind in KINDS} or (is_torch and node.attr in KINDS)
    if isinstance(node, ast.Compare):
        return any(
            isinstance(part, ast.Constant) and part.value in KINDS for part in node.comparators
        )
    return False


def test_one_module_knows_kinds_of_devices() -> None:
    trees = {name_of(path): tree_of(path) for path in FILES if name_of(path) not in KNOWING}
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if names_a_kind(node)
    ]
    assert not found, f"ask fewshot_bench.utils.devices: {found}"


def test_every_hook_is_documented() -> None:
    text = (REPOSITORY / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    for name in vars(Hooks):
        if not name.startswith("_"):
            assert f"\n## {name}\n" in text, name


def tracked() -> list[Path]:
    """Files under version control; without git, the Python files of the packages."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(REPOSITORY), "ls-files", "-z"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return FILES
    return [REPOSITORY / name for name in listed.split("\0") if name]


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    personal = re.compile(r"/(?:home|Users|root|mnt|work|workspace|scratch)/[A-Za-z]\w*")
    found = []
    for path in tracked():
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".json", ".cff", ".txt", ""):
            for line in path.read_text(encoding="utf-8").splitlines():
                found += [f"{name_of(path)}: {hit}" for hit in personal.findall(line)]
    assert not found


def test_the_folders_are_no_packages(tmp_path: Path) -> None:
    for name in ("methods", "datasets"):
        assert not (REPOSITORY / name / "__init__.py").exists()
    code = "import fewshot_bench, fsbench_methods, fsbench_datasets\nimport {}"
    for name in ("methods", "datasets"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        # Hugging Face's `datasets` may be installed; our folder must not be imported in its place.
        assert done.returncode == 0 or f"No module named '{name}'" in done.stderr, done.stderr
        if name == "methods":
            assert done.returncode != 0


def test_the_wheel_holds_the_three_packages(tmp_path: Path) -> None:
    if find_spec("hatchling") is None:
        pytest.skip("building a wheel offline needs hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {top(n.partition("/")[0]) for n in names if ".dist-info/" not in n} == set(PACKAGES)
    for needed in (
        "fewshot_bench/py.typed",
        "fewshot_bench/backbones/tiny/tiny.safetensors",
        "fewshot_bench/splits/coop_picks.json",
        "fewshot_bench/plugins/reproduce/numbers.csv",
        "fewshot_bench/plugins/reproduce/reproductions.toml",
        "fewshot_bench/plugins/reproduce/sources.csv",
        "fewshot_bench/plugins/new/templates/method/module/method.py.template",
        "fewshot_bench/plugins/new/templates/package/gitignore.template",
        "fewshot_bench/plugins/models/page/page.html",
        "fewshot_bench/plugins/models/page/script.js",
        "fewshot_bench/plugins/report/page/report.html",
        "fewshot_bench/plugins/report/page/script.js",
        "fsbench_datasets/demo/letters.npz",
        "fsbench_datasets/catalog.toml",
        "fsbench_datasets/imagenet_classes.txt",
        "fsbench_datasets/imagenet_devkit_classes.txt",
        "fsbench_datasets/recipes.toml",
    ):
        assert needed in names
    assert wheel.stat().st_size < 8 * 2**20
