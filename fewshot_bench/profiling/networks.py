"""Find networks that a method runs next to the encoders: layers that no encoder counts.

`watch_layers` notes what layers cost. Products by `@`, such as in caches and kernels, are no
layers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.profiling.optimizer import wrap

# Functions of layers; those with `_` are what attention and transformer layers call to predict.
_LAYERS = (
    (F, "linear"),
    *((place, f"conv{n}d") for place in (F, torch) for n in (1, 2, 3)),
    *((torch._VF, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")),
    (torch, "_native_multi_head_attention"),
    (torch, "_transformer_encoder_layer_fwd"),
    (torch.jit.ScriptModule, "__call__"),
)
# Modules whose layers are counted, or belong to a backbone that reports no work.
_ENCODERS = ("fewshot_bench.backbones.", "fewshot_bench.images.")


@contextmanager
def watch_layers(noted: dict[Hashable, int]) -> Iterator[None]:
    """Note in `noted` the FLOPs of each kind of layer inside, per row of its input.

    A kind is the function and the number of its weights, so that repeated steps count once.
    """

    def watched(layer: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(layer)
        def run(*arguments: Any, **named: Any) -> Any:
            result = layer(*arguments, **named)
            traced = torch.compiler.is_compiling() or torch._C._is_tracing()
            if not traced and not _is_encoder(sys._getframe(1)):
                kind, flops = _cost(layer.__name__, [*arguments, *named.values()], result)
                if flops > noted.get(kind, 0) and not _is_in_encoder():
                    noted[kind] = flops
            return result

        return run

    with ExitStack() as stack:
        for place, name in _LAYERS:
            wrap(stack, place, name, watched)
        yield


def _cost(name: str, arguments: list[Any], result: Any) -> tuple[Hashable, int]:
    """The kind of a layer, and its FLOPs per row: two for each weight at each position."""
    if "call" in name:
        # The layers of a scripted module can't be seen.
        return name, sys.maxsize
    out = result[0] if isinstance(result, tuple) else result
    if type(out) is not Tensor:
        return name, 0
    ndim = int(name[4]) + 2 if name.startswith("conv") else 2
    listed = (part for one in arguments[1:] for part in (one if type(one) is list else (one,)))
    size = sum(one.numel() for one in listed if isinstance(one, Tensor) and one.ndim == ndim)
    rows = len(out) if out.ndim >= ndim else 1
    return (name, size), 2 * size * out.numel() // max(1, rows * out.shape[1 - ndim])


def _is_encoder(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").startswith(_ENCODERS)  # type: ignore[no-any-return]


def _is_in_encoder() -> bool:
    """True below a frame of an encoder."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not _is_encoder(frame):
        frame = frame.f_back
    return frame is not None
