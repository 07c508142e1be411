"""Compiles the rehearsal device, once per machine and torch, into the user's cache folder.

The folder holds a package `rehearsal_device` and an entry point of the group `torch.backends`: in
a process whose `PYTHONPATH` has the folder, `import torch` makes the device known, in child
processes too. Nothing of it is loaded in other processes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from fewshot_bench.utils.cache_dir import cache_root
from fewshot_bench.utils.errors import UsageError

KIND = "rehearsal"
PACKAGE = "rehearsal_device"
_HERE = Path(__file__).parent
_SOURCES = ("device.cpp", "module.py")
_POINTS = f"[torch.backends]\n{KIND} = {PACKAGE}:register\n"
_ABOUT = "Metadata-Version: 2.1\nName: rehearsal-device\nVersion: 1.0\n"
_COMPILE = """
import sys
from torch.utils.cpp_extension import load
load("_C", [sys.argv[1]], extra_cflags=["-O1"], build_directory=sys.argv[2], verbose=True)
"""


def find_missing() -> str:
    """A sentence on what this machine lacks to compile the device; empty if nothing is missing."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return (
            f"the rehearsal device needs a C++ compiler, and '{compiler}' is not there: install "
            "one, such as g++, or name it in the variable CXX"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the rehearsal device needs Python's headers, such as of the package python3-dev"
    if shutil.which("ninja", path=_search_path()) is None:
        return "the rehearsal device needs ninja to be compiled (pip install ninja)"
    return ""


def build() -> Path:
    """The folder with the compiled device, which is compiled if no process has done so before.

    UsageError without a compiler, or if the compiler reports an error.
    """
    root = cache_root() / "rehearsal"
    folder = root / _digest()
    if folder.is_dir():
        return folder
    if missing := find_missing():
        raise UsageError(missing)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=root) as work:
                _compile(Path(work))
                _assemble(Path(work)).rename(folder)
    return folder


def _search_path() -> str:
    """PATH, and the folder of this Python, where pip has put ninja."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _digest() -> str:
    """Names the sources, torch, Python, the machine and the compiler."""
    compiler = os.environ.get("CXX", "c++")
    facts = [torch.__version__, sys.version, platform.machine(), shutil.which(compiler) or compiler]
    sources = [(_HERE / name).read_bytes() for name in _SOURCES]
    return hashlib.sha256(b"\0".join([*map(str.encode, facts), *sources])).hexdigest()[:16]


def _compile(work: Path) -> None:
    """Compile in a process of its own: torch's tool loads what it has compiled."""
    result = subprocess.run(
        [sys.executable, "-c", _COMPILE, str(_HERE / "device.cpp"), str(work)],
        env={**os.environ, "PATH": _search_path(), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode:
        lines = [line for line in result.stdout.splitlines() if "error" in line] or ["no output"]
        raise UsageError(
            f"the rehearsal device cannot be compiled with torch {torch.__version__}: "
            f"{lines[0].strip()} (a compiler that this torch supports is needed)"
        )


def _assemble(work: Path) -> Path:
    """The package and its entry point, in a new folder inside `work`."""
    made = work / "made"
    package, info = made / PACKAGE, made / f"{PACKAGE}-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    shutil.copy(_HERE / "module.py", package / "__init__.py")
    shutil.copy(work / "_C.so", package)
    (info / "METADATA").write_text(_ABOUT, encoding="utf-8")
    (info / "entry_points.txt").write_text(_POINTS, encoding="utf-8")
    return made
