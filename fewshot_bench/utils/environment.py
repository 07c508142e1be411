"""The environment of a record: `describe` lists versions and hardware; secrets are hidden."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.utils import determinism
from fewshot_bench.utils.devices import device_name, is_accelerator

if TYPE_CHECKING:
    import torch

NAMES = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY")
# Shorter values may be ordinary words, which must not be masked.
SHORTEST = 8
MASK = "***"


@contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def hide_secrets(value: Any) -> Any:
    """A JSON-able value with the values of secret environment variables replaced by `***`."""
    secrets = {
        text
        for name, text in os.environ.items()
        if NAMES.search(name.upper()) and len(text) >= SHORTEST
    }
    return _mask(value, sorted(secrets, key=len, reverse=True)) if secrets else value


def _mask(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return value
    if isinstance(value, Mapping):
        return {_mask(key, secrets): _mask(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mask(item, secrets) for item in value)
    return value


PACKAGES = (
    *("torch", "torchvision", "open_clip_torch", "scikit-learn", "scipy", "numpy", "pillow"),
    "safetensors",
)


def describe(device: Any) -> dict[str, Any]:
    """Versions, device, threads, load and commit, as JSON-able values."""
    import torch

    device = torch.device(device)
    return {
        "fewshot_bench": _installed("fewshot-bench"),
        **_source_state(),
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name_of(device),
        "threads": torch.get_num_threads(),
        "determinism": determinism.mode(),
        **({"tf32": determinism.allows_tf32()} if is_accelerator(device) else {}),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def name_of(device: torch.device) -> str:
    """The model of a device: of an accelerator, or of the processor."""
    return device_name(device) if is_accelerator(device) else _processor()


# Every record asks for the same packages, whose metadata take milliseconds to read.
_installed = functools.cache(version)


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def _source_state() -> dict[str, Any]:
    """`commit` of the checkout that the package runs from, and `dirty`; None if unknown."""
    root = Path(__file__).resolve().parents[2]
    words = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "-uno"]
    try:
        if not (root / ".git").exists():
            return {"commit": None, "dirty": None}
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    # "# branch.oid 4b05d3...", "# branch.head main", then a line for each changed file.
    lines = done.stdout.splitlines()
    commit = lines[0].removeprefix("# branch.oid ")
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}
