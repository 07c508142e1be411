"""`fsbench env`: facts for a bug report on the machine, its software and installed plug-ins.

Values of environment variables that look like a secret are hidden.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.spec import AUTO
from fewshot_bench.cli.cache import clear, sizes
from fewshot_bench.cli.env_check import judge_device
from fewshot_bench.cli.options import NAMES, format_option, output_option, store_option
from fewshot_bench.cli.panels import list_option
from fewshot_bench.cli.working import working
from fewshot_bench.utils import determinism, devices, environment
from fewshot_bench.utils.cache_dir import KINDS
from fewshot_bench.utils.errors import UsageError

VARIABLES = (
    *("FSBENCH_", "OMP_", "MKL_", "CUDA_", "CUBLAS_", "HF_", "TORCH_", "PYTORCH_", "NCCL_"),
    *("HIP_", "ROCR_", "HSA_", "ZE_", "ONEAPI_"),
)
_SECRET = re.compile(r"TOKEN|SECRET|KEY|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_URL_LOGIN = re.compile(r"//[^/@\s]+@")


@click.command("env", short_help="Show versions, hardware, settings and caches, for a bug report.")
@format_option(("terminal", "json"), "How to write them.")
@click.option(
    "--check", is_flag=True, help="Test a device: up to two minutes, ends with a verdict."
)
@click.option("--device", metavar="NAME", help="The device to test (default: auto).")
@output_option("Write all of --check to this file, as JSON.")
@list_option(
    "--clear-cache",
    type=NAMES,
    metavar="KINDS",
    help=f"Remove what is cached: {', '.join(KINDS)}, or all.",
)
@store_option("Store whose features are meant.")
@working("env")
def command(
    form: str,
    check: bool,
    device: str | None,
    output: Path | None,
    clear_cache: tuple[str, ...] | None,
    store: Path,
) -> None:
    """Show versions, hardware, settings and caches, for a bug report.

    Values of environment variables that look like a secret are hidden.

    With --check, fit a method of every family on a device, compare float32 with 16 bits and
    captured with eager steps, measure the loader, and judge. Attach the file of --output to an
    issue.
    """
    if not check and (device or output):
        raise UsageError(f"{'--device' if device else '--output'} goes with --check: add it")
    if clear_cache:
        clear(clear_cache, store)
        return
    facts = collect() | {"cache": sizes(store)}
    if check:
        judge_device(device or AUTO, facts, output, form)
        return
    if form == "json":
        click.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        for label, text in _lines(name, value):
            click.echo(f"{label:<24} {text}")


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [(name, " ".join(str(v) for v in part.values() if v is not None)) for part in value]
    if isinstance(value, dict) and value:
        return [(f"{name}.{key}", _text(part)) for key, part in value.items()]
    return [(name, _text(value))]


def _text(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def collect() -> dict[str, Any]:
    """All facts as JSON-able values, in reading order."""
    import psutil
    import torch

    from fewshot_bench.api.dataset import data_roots
    from fewshot_bench.api.registry import registry
    from fewshot_bench.utils.prefetch import cores

    determinism.apply()
    device = devices.accelerator_kind() or devices.CPU
    memory = psutil.virtual_memory()
    plugins = [
        {
            "name": info.full_name,
            "version": environment.version(info.distribution),
            "target": info.target,
            "error": info.error,
        }
        for info in registry().plugins
    ]
    return {
        **environment.describe(device),
        "executable": sys.executable,
        "cpu_name": environment.describe("cpu")["device_name"],
        "usable_cores": cores(),
        "memory_gb": round(memory.total / 1e9, 1),
        "memory_available_gb": round(memory.available / 1e9, 1),
        "interop_threads": torch.get_num_interop_threads(),
        "blas": _blas(),
        "accelerators": devices.list_models(),
        "drivers": devices.list_software(),
        "precision": torch.get_float32_matmul_precision(),
        "variables": variables(os.environ),
        "plugins": plugins,
        "data_roots": {str(root): root.is_dir() for root in data_roots()},
    }


def variables(values: Mapping[str, str]) -> dict[str, str]:
    """The variables that can change a run; values that look like secrets are hidden."""
    return {
        name: "(hidden)" if _SECRET.search(name) else _URL_LOGIN.sub("//(hidden)@", values[name])
        for name in sorted(values)
        if name.startswith(VARIABLES)
    }


def _blas() -> str:
    import torch

    text = torch.__config__.show()
    match = re.search(r"BLAS_INFO=(\w+)", text) or re.search(r"(?m)^.*Math Kernel.*$", text)
    return match[match.lastindex or 0].strip(" -") if match else "unknown"
