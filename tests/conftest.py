"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

# Tests compare numbers to the last digit, which instructions of some processors change, and where
# an array lies in memory. Set before numpy and torch are imported, here and in workers.
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
with suppress(OSError):
    if "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4 AVX512_ICL AVX512_SPR")

import pytest
from hypothesis import HealthCheck, settings

from fewshot_bench.api import code_closure, own_methods
from fewshot_bench.api.registry import registry
from fewshot_bench.cli import working
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.devices import accelerator_kind
from tests.support import helpers
from tests.support.layout import use_accelerator_layout

# Example run time and generation time depend on the load of the machine. Where `CI` is set, every
# run draws the same examples: a change is not refused for a fault that it does not have.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("any machine")

# The session's cache is a temporary folder: the compiled rehearsal device stays in the machine's.
MACHINES_CACHE = os.environ.get("FSBENCH_CACHE")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Exit if installed entry points differ from pyproject.toml, as can happen after a pull."""
    project = tomllib.loads((helpers.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["entry-points"]["fewshot_bench"]
    found = {point.name: point.value for point in entry_points(group="fewshot_bench")}
    missing = [f"{name} = {value}" for name, value in wanted.items() if found.get(name) != value]
    if missing:
        pytest.exit(
            f"not installed as in pyproject.toml: {'; '.join(missing)} "
            "(pip install --no-deps -e . writes the entry points anew)",
            returncode=4,
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down each skipped test if FSBENCH_SKIPPED names a file: `.ci/run` runs them later."""
    note_if_skipped(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write down each skipped file, as for tests."""
    note_if_skipped(report)


def note_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Add the name of what was skipped to the file FSBENCH_SKIPPED, which several workers share."""
    path = os.environ.get("FSBENCH_SKIPPED")
    if path and report.skipped and not hasattr(report, "wasxfail"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{report.nodeid}\n")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt imported objects from garbage collections, now and later, which are slow otherwise."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put the caches of tests and of the processes they start into a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FSBENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def writes_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test write into caches, whatever foreign code another one has run in this process."""
    monkeypatch.setattr(cache_dir, "_reads_only", False)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Undo ignored signals if a script starts the tests in the background or with nohup.

    Child processes would ignore them too. SIGINT gets Python's own handler, as at a terminal, and
    SIGHUP the system's default.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def no_hurry() -> Iterator[None]:
    """Commands in this process print no lines about the time that they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working, "FIRST_SECONDS", 1e6)
        patch.setattr(working, "EVERY_SECONDS", 1e6)
        yield


@pytest.fixture(scope="session", autouse=True)
def usual_width() -> Iterator[None]:
    """Unset COLUMNS, so that tables have the same width under any terminal or runner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture
def methods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of misbehaving methods, registered here and in child processes."""
    folder = tmp_path_factory.mktemp("plugin")
    helpers.install_methods(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        before = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
        registry.cache_clear()
        registry()
        yield sys.modules[helpers.MODULE]
    registry.cache_clear()
    for name in [*sys.modules]:
        if name.partition(".")[0] == helpers.MODULE:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_methods_of_files() -> Iterator[None]:
    """Methods of files that a test makes known are not known to the next one."""
    yield
    own_methods.forget()


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """A function that installs a plug-in by name and source and refreshes the registry."""
    folder = tmp_path / "plugins"
    folder.mkdir()

    def add(name: str, source: str) -> None:
        module = f"fsbench_{name}"
        (folder / f"{module}.py").write_text(source.replace("{module}", module), encoding="utf-8")
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: fsbench-{name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(about, encoding="utf-8")
        points = f"[fewshot_bench]\n{name} = {module}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        registry.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        before = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), before))))
        modules = dict(sys.modules)
        yield add
        registry.cache_clear()
    for name in [*sys.modules]:
        if name not in modules and name.startswith("fsbench_"):
            del sys.modules[name]
            code_closure.forget(name)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with train, val and test."""
    return helpers.image_folder(tmp_path_factory.mktemp("photos") / "pets")


@pytest.fixture(params=["cpu", "accelerator"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors in the layout of a CPU, then in that of accelerators."""
    if request.param == "accelerator":
        use_accelerator_layout(monkeypatch)


@pytest.fixture(scope="session")
def compiled() -> Any:
    """`torch.rehearsal`, with no device until a test shows some."""
    import torch

    from fewshot_bench.testing.rehearsal import find_missing, load

    missing = find_missing()
    if missing and not os.environ.get("FSBENCH_TEST_COMPILER"):
        pytest.skip(missing)
    with pytest.MonkeyPatch.context() as patch:
        if MACHINES_CACHE is None:
            patch.delenv("FSBENCH_CACHE")
        else:
            patch.setenv("FSBENCH_CACHE", MACHINES_CACHE)
        # Child processes of other tests know no such device.
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        patch.setattr(sys, "path", [*sys.path])
        module = load()
    module.show_devices(2)
    # Autograd learns at its first pass how many devices there are.
    torch.ones(1, requires_grad=True).sum().backward()
    module.show_devices(0)
    return module


@pytest.fixture(scope="session", autouse=True)
def loaded_first(request: pytest.FixtureRequest) -> None:
    """Load the rehearsal device before any test computes, if one uses it."""
    from fewshot_bench.testing.rehearsal import find_missing

    names = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    is_possible = bool(os.environ.get("FSBENCH_TEST_COMPILER")) or not find_missing()
    if is_possible and names & {"compiled", "accelerator"}:
        request.getfixturevalue("compiled")


@pytest.fixture
def rehearsal(compiled: Any) -> Iterator[Any]:
    """`torch.rehearsal`, with two devices, of which the first is the current one."""
    compiled.show_devices(2)
    compiled.set_device(0)
    yield compiled
    compiled.show_devices(0)


@pytest.fixture
def inherited(rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes of the test find the device, too."""
    folder = str(Path(rehearsal.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (others, folder))))
    monkeypatch.setattr(sys, "path", [*sys.path, folder])


@pytest.fixture
def accelerator(request: pytest.FixtureRequest) -> str:
    """The first accelerator of this machine; where there is none, the second rehearsal device."""
    kind = accelerator_kind()
    if kind:
        return f"{kind}:0"
    request.getfixturevalue("rehearsal")
    return "rehearsal:1"
