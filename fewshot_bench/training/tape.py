"""`Tape`: the operators of a training step, recorded while they run, to run again without Python.

The rules are those of a CUDA graph: memory stays where it is, Python numbers are constants, and
nothing is read on the host. `Tape.replay` repeats the operators on the same memory of any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose results are on the host, or whose sizes depend on values.
_READING = frozenset(
    (
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
        *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    )
)
WITHOUT_VALUES = frozenset(
    ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
)


class NotCapturableError(Exception):
    """The reason why a step cannot be captured, as a part of a sentence."""


class Call(NamedTuple):
    """One operator with its arguments and results.

    name: of the operator, without overload. made: the results in memory of their own. lists: True
    if the operator returns a list or several results. view: True if it only looks at memory in
    another way.
    """

    name: str
    operator: Any
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    results: tuple[Tensor, ...]
    made: tuple[Tensor, ...]
    lists: bool
    view: bool


@dataclass
class Tape:
    """The operators of a step, the tensors that it changes, and the generators that it draws from.

    device: where the step computes. keep: False to record no operators.
    """

    device: torch.device
    keep: bool = True
    calls: list[Call] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)
    _changed: dict[int, Tensor] = field(default_factory=dict)
    # Held, so that no other memory gets the same address.
    _made: dict[int, Any] = field(default_factory=dict)

    @property
    def changed(self) -> list[Tensor]:
        """The memory that the step changes and did not make, each as one row of numbers."""
        return list(self._changed.values())

    def record(self, work: Callable[[], None]) -> None:
        """Run `work` and record it; NotCapturableError for what no graph can contain."""
        with recording(self):
            work()

    def save(self) -> Callable[[], None]:
        """Copy all that the step changes; the result puts the copies back."""
        values = [tensor.clone() for tensor in self.changed]
        states = [(generator, generator.get_state()) for generator in self.generators]

        def restore() -> None:
            with torch.no_grad():
                for tensor, value in zip(self.changed, values, strict=True):
                    tensor.copy_(value)
            for generator, state in states:
                generator.set_state(state)

        return restore

    @torch.no_grad()
    def replay(self) -> None:
        """Run all operators again on the same memory; random ones draw the next numbers."""
        for call in self.calls:
            if not call.view:
                repeat(call)

    def add(self, operator: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Run an operator and record it."""
        space, _, name = operator._schema.name.partition("::")
        if space == "profiler":
            return operator(*arguments, **named)
        _require_capturable(name, arguments)
        generator = named.get("generator")
        if generator is not None and all(generator is not other for other in self.generators):
            self.generators.append(generator)
        given = {address(tensor) for tensor in tensors_in((*arguments, *named.values()))}
        results = operator(*arguments, **named)
        for tensor in _written(operator, arguments, named):
            if address(tensor) not in self._made:
                self._changed.setdefault(address(tensor), whole(tensor))
        found = tuple(tensors_in(results))
        if any(tensor.device.type != self.device.type for tensor in found):
            raise NotCapturableError(f"it computes on another device than {self.device} ({name})")
        made = tuple(tensor for tensor in found if address(tensor) not in given)
        self._made |= {address(t): t.untyped_storage() if self.keep else None for t in made}
        if self.keep:
            view = not made and not operator._schema.is_mutable
            # Aliases: the tape must not see later changes of tensors, such as `requires_grad_`.
            kept = _alias(arguments), _alias(dict(named)), _alias(found), _alias(made)
            self.calls.append(Call(name, operator, *kept, not isinstance(results, Tensor), view))
        return results


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Passes operators to a tape, also those of backward passes, which torch runs in threads."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tape.add(func, args, kwargs or {})


def recording(tape: Tape) -> AbstractContextManager[Any]:
    """Record what runs inside on a tape."""
    recorder: AbstractContextManager[Any] = _Recorder(tape)
    return recorder


def repeat(call: Call) -> None:
    """Run an operator again; its results replace the earlier ones in their memory."""
    found = call.operator(*call.arguments, **call.named)
    if call.made and call.name not in WITHOUT_VALUES:
        for old, new in zip(call.results, tensors_in(found), strict=True):
            if old.numel() and address(old) != address(new):
                old.copy_(new)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of an argument or a result, in lists, too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def address(tensor: Tensor) -> int:
    """The identity of the memory of a tensor."""
    return int(tensor.untyped_storage()._cdata)


def whole(tensor: Tensor) -> Tensor:
    """All numbers in the memory of a tensor, which may be a part of it: (n,)."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0)


def _alias(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, list | tuple):
        return type(value)([_alias(part) for part in value])
    if isinstance(value, dict):
        return {name: _alias(part) for name, part in value.items()}
    return value


def _written(operator: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operator changes in place."""
    if operator._schema.is_mutable:
        for place, about in enumerate(operator._schema.arguments):
            if about.alias_info is not None and about.alias_info.is_write:
                in_order = place < len(arguments)
                yield from tensors_in(arguments[place] if in_order else named.get(about.name))


def _require_capturable(name: str, arguments: Sequence[Any]) -> None:
    if name in _READING:
        raise NotCapturableError(f"it reads values on the host ({name})")
    if name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
        tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors_in(arguments[1])
    ):
        raise NotCapturableError(f"it indexes by a mask, and sizes depend on values ({name})")
    if name == "lift_fresh":
        raise NotCapturableError("it makes a tensor of Python numbers on the host (torch.tensor)")
