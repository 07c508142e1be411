"""Settings of torch, NumPy and Pillow that change numbers, and hooks that see every step."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

from fewshot_bench.runner.isolation.settings import Setting, attribute, unvalued

KERNELS = ("flash", "mem_efficient", "math", "cudnn")


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    import numpy as np

    name, key, *rest = state
    np.random.set_state((name, np.frombuffer(key, dtype=np.uint32), *rest))


def of_numpy() -> Iterator[Setting]:
    """NumPy's, where it is imported."""
    if "numpy" not in sys.modules:
        return
    import numpy as np

    def state() -> tuple[Any, ...]:
        found: Any = np.random.get_state(legacy=True)
        return (found[0], found[1].tobytes(), *found[2:])

    yield Setting("NumPy's error state", np.geterr, lambda found: np.seterr(**found))
    yield Setting("NumPy's error callback", np.geterrcall, np.seterrcall)
    yield Setting(
        "NumPy's print options",
        lambda: {k: v for k, v in np.get_printoptions().items() if k != "override_repr"},
        lambda found: np.set_printoptions(**found),
    )
    yield Setting(
        "NumPy's global generator (np.random)",
        state,
        _set_numpy_state,
        verb="used or reseeded",
        values=unvalued,
    )


def of_pillow() -> Iterator[Setting]:
    """Pillow's, where it is imported: they decide which images can be read."""
    for module, name in (
        ("PIL.ImageFile", "LOAD_TRUNCATED_IMAGES"),
        ("PIL.Image", "MAX_IMAGE_PIXELS"),
    ):
        if module in sys.modules:
            yield attribute(sys.modules[module], name, f"{module}.{name}")


def of_torch() -> Iterator[Setting]:
    """torch's, where it is imported."""
    if "torch" not in sys.modules:
        return
    import torch
    from torch import autograd, backends

    yield Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Setting("torch's inference mode", torch.is_inference_mode_enabled)
    yield Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Setting("torch's default device", torch.get_default_device, _set_default_device)
    yield Setting("torch's threads", torch.get_num_threads, torch.set_num_threads)
    yield Setting(
        "torch's global generator", torch.initial_seed, torch.manual_seed, "reseeded", unvalued
    )
    yield Setting(
        "torch's deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    )
    yield attribute(
        torch.utils.deterministic,
        "fill_uninitialized_memory",
        "torch.utils.deterministic.fill_uninitialized_memory",
    )
    yield Setting("torch's float32 precision", _precision, _set_precision)
    yield Setting("torch's denormal numbers", _flushes, torch.set_flush_denormal, values=unvalued)
    for name in ("enabled", "benchmark", "benchmark_limit", "deterministic"):
        yield attribute(backends.cudnn, name, f"torch.backends.cudnn.{name}")
    for name in ("enabled", "deterministic"):
        if hasattr(backends.mkldnn, name):
            yield attribute(backends.mkldnn, name, f"torch.backends.mkldnn.{name}")
    for name in ("enabled", "strategy"):
        yield attribute(backends.opt_einsum, name, f"torch.backends.opt_einsum.{name}")
    for kind in ("fp16", "bf16"):
        name = f"allow_{kind}_reduced_precision_reduction"
        yield attribute(backends.cuda.matmul, name, f"torch.backends.cuda.matmul.{name}")
    for name in KERNELS:
        read = getattr(backends.cuda, f"{name}_sdp_enabled")
        write = getattr(backends.cuda, f"enable_{name}_sdp")
        yield Setting(f"torch's {name} attention", read, write)
    yield Setting(
        "torch's anomaly mode",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda found: autograd.set_detect_anomaly(*found),
    )
    yield Setting("torch's autocast", _autocast, _set_autocast)
    yield Setting(
        "torch's function and dispatch modes",
        lambda: (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
    )
    yield Setting("hooks on every optimizer or module", _hooks, _set_hooks, values=unvalued)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield Setting("the CUDA device", torch.cuda.current_device, torch.cuda.set_device)
        yield Setting("the CUDA stream", torch.cuda.current_stream, torch.cuda.set_stream)


def _set_default_device(device: Any) -> None:
    import torch

    torch.set_default_device(None if device.type == "cpu" else device)


def _flushes() -> bool:
    import torch

    return bool(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu") * 1.0 == 0)


@functools.cache
def _precision_holders() -> dict[str, Any]:
    from torch import backends

    found: dict[str, Any] = {"all": backends, "cuda.matmul": backends.cuda.matmul}
    for name in ("cudnn", "mkldnn"):
        module = getattr(backends, name)
        found[name] = module
        found |= {f"{name}.{p}": getattr(module, p, None) for p in ("matmul", "conv", "rnn")}
    # Older versions of torch know one switch alone.
    return {name: one for name, one in found.items() if hasattr(one, "fp32_precision")}


def _precision() -> dict[str, Any]:
    import torch

    found = {name: one.fp32_precision for name, one in _precision_holders().items()}
    try:
        found["matmul"] = torch.get_float32_matmul_precision()
    except RuntimeError:
        # Set through the newer switches, which are in `found`.
        found["matmul"] = ""
    if not _precision_holders():
        found["cudnn"] = torch.backends.cudnn.allow_tf32
    return found


def _set_precision(before: dict[str, Any]) -> None:
    import torch

    if before["matmul"]:
        torch.set_float32_matmul_precision(before["matmul"])
    for name, holder in _precision_holders().items():
        holder.fp32_precision = before[name]
    if not _precision_holders():
        torch.backends.cudnn.allow_tf32 = before["cudnn"]


def _autocast() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cache": torch.is_autocast_cache_enabled()}
    for kind in ("cpu", "cuda"):
        found[kind] = torch.is_autocast_enabled(kind)
        found[f"{kind} dtype"] = torch.get_autocast_dtype(kind)
    return found


def _set_autocast(before: dict[str, Any]) -> None:
    import torch

    torch.set_autocast_cache_enabled(before["cache"])
    for kind in ("cpu", "cuda"):
        torch.set_autocast_enabled(kind, before[kind])
        torch.set_autocast_dtype(kind, before[f"{kind} dtype"])


def _hook_holders() -> Iterator[tuple[str, Any]]:
    for module in ("torch.nn.modules.module", "torch.optim.optimizer"):
        for name, value in vars(sys.modules[module]).items():
            if name.startswith("_global_") and isinstance(value, dict):
                yield name, value


def _hooks() -> dict[str, Any]:
    return {name: dict(value) for name, value in _hook_holders()}


def _set_hooks(before: dict[str, Any]) -> None:
    for name, value in _hook_holders():
        value.clear()
        value.update(before[name])
