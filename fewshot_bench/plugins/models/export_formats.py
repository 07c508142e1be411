"""The formats of exported programs: each writes a file, reads it back and answers with it.

`FORMATS` is the entry point.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.utils.errors import UsageError, require

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
    from torch.export import ExportedProgram

Ask = Callable[["np.ndarray[Any, Any]"], "Tensor"]
"""uint8 pixels (n, 3, h, w) to float32 logits (n, classes) on the CPU."""
PIXELS, LOGITS = "pixels", "logits"
TORCH = (2, 9)
"""The lowest version of torch with which the programs of all methods can be written."""
INLINE_BYTES = 1800 * 2**20
"""Larger weights go to a second file, since an ONNX file is limited to 2 GiB."""


@dataclass(frozen=True)
class Format:
    """One program format.

    write: writes the file and returns a callable that runs it; OSError if the disk does not take
    it. packages: required packages, all of the extra `export`. more: further files it may write.
    """

    file: str
    write: Callable[[ExportedProgram, Path], Ask]
    packages: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it may write."""
        return (self.file, *self.more)

    def require(self) -> None:
        """Raise UsageError if a package is missing, or torch is too old."""
        installed = version("torch")
        if tuple(map(int, installed.split(".")[:2])) < TORCH:
            needed = ".".join(map(str, TORCH))
            raise UsageError(
                f"export needs torch {needed} or newer, and {installed} is installed: "
                f"pip install 'torch>={needed}' (torchvision of the same date)"
            )
        for name in self.packages:
            require(name, "export", "--format onnx", "take --format torch")


def _write_torch(program: ExportedProgram, file: Path) -> Ask:
    import torch

    with _quiet():
        # torch aborts the process if it cannot write to the file itself.
        content = io.BytesIO()
        torch.export.save(program, content)
        file.write_bytes(content.getbuffer())
        del content
        module = torch.export.load(file).module()
    device = next(iter(program.constants.values()), torch.empty(0)).device

    def ask(pixels: np.ndarray[Any, Any]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(torch.from_numpy(pixels).to(device))
        return logits.cpu()

    return ask


def _write_onnx(program: ExportedProgram, file: Path) -> Ask:
    import onnx
    import onnxruntime
    import torch

    _one_type_for_norms(program)
    held = (*program.constants.values(), *program.state_dict.values())
    external = (
        sum(tensor.nbytes for tensor in held if isinstance(tensor, torch.Tensor)) > INLINE_BYTES
    )
    with _quiet():
        written = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=[PIXELS], output_names=[LOGITS]
        )
        assert written is not None
        written.save(file, external_data=external)
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run([LOGITS], {PIXELS: pixels})[0])


def _one_type_for_norms(program: ExportedProgram) -> None:
    """Compute fp16 layer norms with fp32 weights, which ONNX lacks, in fp32 and round the result.

    Torch computes them the same way. Changes the program in place.
    """
    import torch

    norm = torch.ops.aten.layer_norm.default
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.find_nodes(op="call_function", target=norm):
            weight = node.args[2].meta["val"].dtype
            if node.args[0].meta["val"].dtype != weight:
                _compute_in(node, weight)
        module.recompile()


def _compute_in(node: torch.fx.Node, dtype: torch.dtype) -> None:
    """Cast the first argument of a node to `dtype`, and its result back."""
    import torch

    graph, cast, given = node.graph, torch.ops.aten._to_copy.default, node.meta["val"]
    x: Any = node.args[0]
    with graph.inserting_before(node):
        wide = graph.call_function(cast, (x,), {"dtype": dtype})
    with graph.inserting_after(node):
        back = graph.call_function(cast, (node,), {"dtype": given.dtype})
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    node.update_arg(0, wide)
    wide.meta["val"], node.meta["val"], back.meta["val"] = (
        x.meta["val"].to(dtype),
        given.to(dtype),
        given,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of exporters, which are for authors of torch code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


FORMATS: Mapping[str, Format] = {
    "torch": Format("model.pt2", _write_torch),
    "onnx": Format(
        "model.onnx", _write_onnx, ("onnx", "onnxruntime", "onnxscript"), ("model.onnx.data",)
    ),
}
