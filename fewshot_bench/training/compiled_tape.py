"""A `Tape` as one function for `torch.compile`: operators are compiled, not the Python of a method.

Numbers from generators are drawn before, since compilers do not know generators.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fewshot_bench.training.tape import (
    WITHOUT_VALUES,
    Call,
    NotCapturableError,
    Tape,
    address,
    repeat,
    tensors_in,
    whole,
)


def compile_tape(tape: Tape, outputs: Iterable[Tensor], compiler: str) -> Callable[[], None]:
    """A function that repeats a tape, compiled whole by a back end of `torch.compile`.

    outputs: tensors made by the step that are read after it; they keep their memory.
    """
    draws = [call for call in tape.calls if "generator" in call.named]
    # Compilers do not know fused optimizers either, which are one kernel anyhow.
    end = next((i for i, call in enumerate(tape.calls) if call.name.startswith("_fused_")), None)
    inner, last = tape.calls[:end], [] if end is None else tape.calls[end:]
    writer = _Writer(_drawn(tape, draws))
    for call in inner:
        if "generator" not in call.named:
            writer.add(call)
    read = [t for call in last for t in tensors_in((*call.arguments, *call.named.values()))]
    module = writer.finish([*outputs, *read])
    compiled = torch.compile(module, fullgraph=True, dynamic=False, backend=compiler)

    @torch.no_grad()
    def run() -> None:
        for call in draws:
            repeat(call)
        compiled()
        for call in last:
            repeat(call)

    return run


def _drawn(tape: Tape, draws: Iterable[Call]) -> frozenset[int]:
    """The memory that is drawn into; NotCapturableError if it depends on other operators."""
    computed = {
        address(result)
        for call in tape.calls
        if call.name not in WITHOUT_VALUES and "generator" not in call.named
        for result in call.made
    }
    drawn: set[int] = set()
    for call in draws:
        read = {address(tensor) for tensor in tensors_in((*call.arguments, *call.named.values()))}
        found = read | {address(result) for result in call.made}
        if read & computed or found & drawn:
            raise NotCapturableError(f"it draws by numbers that the step computes ({call.name})")
        drawn |= found
    return frozenset(drawn)


class _Writer:
    """Writes calls as a module, in which memory that the step did not make is a buffer."""

    def __init__(self, drawn: frozenset[int]) -> None:
        self._drawn = drawn
        self._root = torch.nn.Module()
        self._graph = fx.Graph()
        self._nodes: dict[Any, fx.Node] = {}
        self._whole: dict[int, tuple[fx.Node, torch.dtype]] = {}
        self._made: set[int] = set()

    def add(self, call: Call) -> None:
        """Write one operator."""
        if call.name in WITHOUT_VALUES and address(call.results[0]) in self._drawn:
            return
        arguments, named = self._refer(call.arguments), self._refer(call.named)
        node = self._graph.call_function(call.operator, arguments, named)
        several = len(call.results) != 1 or call.lists
        for index, result in enumerate(call.results):
            part = self._graph.call_function(operator.getitem, (node, index)) if several else node
            self._nodes.setdefault(_key(result), part)
            if address(result) not in self._whole:
                self._made.add(address(result))
            self._whole.setdefault(address(result), (part, result.dtype))

    def finish(self, outputs: Iterable[Tensor]) -> fx.GraphModule:
        """The module; its calls copy results to where `outputs` are."""
        copy = torch.ops.aten.copy_.default
        made = {_key(tensor): tensor for tensor in outputs if address(tensor) in self._made}
        for tensor in made.values():
            node = self._node(tensor)
            self._graph.call_function(copy, (self._buffer(tensor), node))
        self._graph.output(None)
        return fx.GraphModule(self._root, self._graph)

    def _refer(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, list | tuple):
            return type(value)([self._refer(part) for part in value])
        if isinstance(value, Mapping):
            return {name: self._refer(part) for name, part in value.items()}
        return value

    def _node(self, tensor: Tensor) -> fx.Node:
        key = _key(tensor)
        if key not in self._nodes:
            if address(tensor) not in self._whole:
                every = whole(tensor)
                same = tensor.is_contiguous() and tensor.numel() == every.numel()
                held = tensor if same else every
                self._nodes[_key(held)] = node = self._buffer(held)
                self._whole[address(tensor)] = node, tensor.dtype
            if key not in self._nodes:
                memory, dtype = self._whole[address(tensor)]
                if dtype != tensor.dtype:
                    raise NotCapturableError(f"it reads {dtype} as {tensor.dtype}")
                place = list(tensor.shape), list(tensor.stride()), tensor.storage_offset()
                strided = torch.ops.aten.as_strided.default
                self._nodes[key] = self._graph.call_function(strided, (memory, *place))
        return self._nodes[key]

    def _buffer(self, tensor: Tensor) -> fx.Node:
        name = f"memory_{len(list(self._root.buffers()))}"
        self._root.register_buffer(name, tensor.detach())
        return self._graph.get_attr(name)


def _key(tensor: Tensor) -> Any:
    place = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
    return address(tensor), *place, tensor.dtype
