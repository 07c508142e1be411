"""Who may import whom, what is packaged, and what must not stand in the tree."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import fewshot_bench
from fewshot_bench.plugins import Hooks
from fewshot_bench.signature.fields import FIELDS
from fewshot_bench.spec import RunSpec
from tests.helpers import REPOSITORY

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
STORES = ("record_files", "store_index", "store_check", "store_conflict", "store_gc", "store_lock")
STORES += ("store_merge", "store_migrate", "store_remains", "store_removal", "store_verify")
STORES += ("leases",)
STORES += ("outcomes", "outcome_packs")
LIGHT = ("record", "spec", "plan", "plugins", "registry", "errors", "store", *STORES)
LIGHT += ("offline", "secret_values", "metrics")
MAX_LINES = 500


def name_of(path: Path) -> str:
    """`fewshot_bench/cli/run.py` and the like, as the rules name it."""
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


def imported(path: Path, *, at_import_time: bool = False) -> set[tuple[str, str]]:
    """The imports of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(imports(tree, at_import_time=at_import_time))


def top(module: str) -> str:
    """The distribution that a module belongs to, roughly."""
    return module.partition(".")[0]


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_never_imports_its_plugins(path: Path) -> None:
    assert not {m for m, _ in imported(path) if top(m).startswith("fsbench_")}


@pytest.mark.parametrize("path", PLUGINS, ids=name_of)
def test_plugins_import_public_names_only(path: Path) -> None:
    own = path.relative_to(REPOSITORY).parts[1]
    for module, name in imported(path):
        if top(module) == "fewshot_bench":
            assert (module, name in fewshot_bench.__all__) == ("fewshot_bench", True), (
                module,
                name,
            )
        assert top(module) not in {"fsbench_methods", "fsbench_datasets"} - {own}
        assert top(module) != "open_clip"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_open_clip_is_imported_in_few_places(path: Path) -> None:
    allowed = {"backbones/loading.py", "backbones/embedded.py", "testing/toy_backbone.py"}
    if path.relative_to(PACKAGES["fewshot_bench"]).as_posix() not in allowed:
        assert "open_clip" not in {top(module) for module, _ in imported(path)}
    assert "open_clip" not in {top(m) for m, _ in imported(path, at_import_time=True)}


RULES = {
    "split_files": {"cli", "runner", "engines", "store", "plan", "compare", "features", "images"},
    "data": {"cli", "runner", "engines", "store", "plan", "compare", "features", "images"},
    "compare": {"cli", "runner", "engines", "features", "images", "backbones", "plan", "testing"},
    "statistics": {"cli", "runner", "engines", "store", "plan", "compare", "record", "spec"},
    "reproduce": {"cli", "runner", "engines", "features", "images", "backbones", "testing"},
    "signature": {"cli", "runner", "engines", "store", "plan", "compare", "features", "images"},
    "audit": {"cli", "runner", "engines", "features", "images", "backbones", "plan", "testing"},
    "sweep": {"cli", "runner", "engines", "features", "images", "backbones", "plan", "testing"},
    "trackers": {"cli", "runner", "engines", "store", "plan", "features", "images", "testing"},
    "report": {"cli", "runner", "engines", "features", "images", "backbones", "plan", "testing"},
    "store": {"cli", "runner", "engines", "features", "images", "backbones", "plan", "compare"},
    "record": {"cli", "runner", "engines", "store", "plan", "compare", "features", "images"},
    "spec": {"cli", "runner", "engines", "store", "plan", "compare", "record", "features"},
    "testing": {"cli", "runner", "engines", "store", "compare", "plan"},
    "runner": {"cli", "engines", "compare", "plan", "testing"},
    "memory": {"cli", "runner", "engines", "compare", "plan", "testing", "store", "record"},
    "engines": {"cli", "compare", "plan", "testing"},
    "features": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "images": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "meter": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "observer": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "finite": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "evaluate": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "splits": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "task": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "record"},
    "errors": {"cli", "runner", "engines", "store", "plan", "registry", "compare", "task"},
}

LOWER = (
    *("question", "session", "variants", "customized", "preflight", "sampling"),
    *("feature_store", "image_cache", "image_files", "image_digests", "image_segments"),
    *("segment_format", "cache_folder", "cache_entries", "ahead", "crops"),
    *(
        "metrics",
        "names",
        "offline",
        "room",
        "host_memory",
        "secret_values",
        "processes",
        "wording",
        "store_files",
        "published",
    ),
    *STORES,
)
RULES |= {part: {"cli", "runner", "engines", "compare", "plan", "testing"} for part in LOWER}


@pytest.mark.parametrize("part", RULES)
def test_who_may_import_whom(part: str) -> None:
    root = PACKAGES["fewshot_bench"]
    files = sorted((root / part).rglob("*.py")) or [root / f"{part}.py"]
    for path in files:
        for module, name in imported(path):
            if top(module) == "fewshot_bench":
                target = (module.split(".") + [name])[1]
                assert target not in RULES[part], f"{name_of(path)} imports {module} {name}"


def light_modules() -> list[str]:
    """Modules that must not bring torch in: cli, compare, statistics, and the small ones."""
    root = PACKAGES["fewshot_bench"]
    found = [f"fewshot_bench.{name}" for name in LIGHT]
    for folder in (
        "cli",
        "compare",
        "reproduce",
        "statistics",
        "report",
        "report/figures",
        "signature",
        "audit",
        "sweep",
        "trackers",
    ):
        package = f"fewshot_bench.{folder.replace('/', '.')}"
        found += [f"{package}.{path.stem}" for path in (root / folder).glob("*.py")]
    return [name for name in sorted(found) if not name.endswith("__init__")]


def test_light_modules_do_not_import_torch() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'torch', 'open_clip', 'sklearn'} & set(sys.modules), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *light_modules()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_hook_is_documented() -> None:
    text = (REPOSITORY / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name in vars(Hooks):
        if not name.startswith("_"):
            assert f"`{name}" in text, name


def test_every_field_of_a_cell_is_in_signatures_and_commands() -> None:
    """A new field of RunSpec needs a line in FIELDS, and one in tests/test_commands.py."""
    known = {name for field in FIELDS for name in field.of}
    assert known == {field.name for field in dataclasses.fields(RunSpec)}


@pytest.mark.parametrize("path", [*FILES, *BESIDE], ids=name_of)
def test_files_are_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= MAX_LINES


def tracked() -> list[Path]:
    """Text files under version control; without git, those of the packages."""
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
        # Hugging Face's `datasets` may be installed; ours must not stand in for it.
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
        "fewshot_bench/published/coop_picks.json",
        "fewshot_bench/published/numbers.csv",
        "fewshot_bench/published/reproductions.toml",
        "fewshot_bench/published/sources.csv",
        "fewshot_bench/report/page/report.html",
        "fewshot_bench/report/page/script.js",
        "fsbench_datasets/demo/letters.npz",
        "fsbench_datasets/imagenet_classes.txt",
    ):
        assert needed in names
    assert wheel.stat().st_size < 8 * 2**20
