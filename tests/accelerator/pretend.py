"""A fake accelerator: tensors that report the device `cuda:99` and use host memory.

The entry point is `pretended`. Inside, errors of CUDA are raised (tensors of two devices in one
operation, NumPy on a device tensor, a host generator for device numbers), and operations that
make the host wait or copy are added to a `Log`, with their source line. Values are the CPU's. Uses
private parts of torch: for tests only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# An index that no machine has, so that caches by device never mix it with a real device.
DEVICE = torch.device("cuda", 99)
HOST = torch.device("cpu")
Kind = Literal["read", "copy", "sent", "step"]
_READS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "_linalg_check_errors"),
    *("nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive"),
}
"""Operations whose result, or its size, comes to the host."""
_TAKE_HOST_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}
_FROM_HOST_DATA = {"tensor", "as_tensor", "asarray"}
_IN_FLOAT32 = {
    *("layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "nll_loss"),
    *("norm", "normalize", "cosine_similarity", "exp", "log", "pow", "__pow__", "rsqrt"),
    *("reciprocal", "sum", "prod", "cumsum", "cumprod", "softplus"),
}
"""Functions that autocast brings to float32 on CUDA, and leaves as they are on a CPU."""
HIDDEN = (str(Path(torch.__file__).parent), __file__)
_IMAGES = str(Path("fewshot_bench", "images"))


@dataclass(frozen=True)
class Event:
    """A read, copy or step: its source line, and whether it was inside image loading.

    `read` brings a value or a size to the host, which waits; `copy` brings host memory to the
    device, and waits; `sent` is an asynchronous copy in either direction; `step` ends a step of the
    optimizer `owner`.
    """

    kind: Kind
    function: str = ""
    place: str = ""
    images: bool = False
    owner: Any = None

    @property
    def waits(self) -> bool:
        """True if the host waits for the device."""
        return self.kind in ("read", "copy")

    def __str__(self) -> str:
        return f"{self.kind} by {self.function} at {self.place}"


@dataclass
class Log:
    """The events of a pretended device, in order."""

    events: list[Event] = field(default_factory=list)

    def add(self, kind: Kind, function: str) -> None:
        """Add an event with the innermost source line outside of torch and this file."""
        frame, place, images = sys._getframe(1), "", False
        while frame.f_back is not None:
            file = frame.f_code.co_filename
            if not place and not file.startswith(HIDDEN):
                place = f"{Path(file).name}:{frame.f_lineno} in {frame.f_code.co_name}"
            images = images or _IMAGES in file
            frame = frame.f_back
        self.events.append(Event(kind, function, place, images))

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Add the end of an optimizer's step."""
        self.events.append(Event("step", owner=optimizer))

    def within_training(self) -> list[Event]:
        """Waits between the first and the last step of any optimizer.

        Image loading is included: it must copy from pinned memory.
        """
        inside: dict[int, Event] = {}
        owners = {id(one.owner) for one in self.events if one.kind == "step"}
        for owner in owners:
            ends = [i for i, one in enumerate(self.events) if id(one.owner) == owner]
            part = self.events[ends[0] : ends[-1]]
            inside |= {id(one): one for one in part if one.waits}
        return list(inside.values())

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return sum(one.kind == "step" for one in self.events)


class DeviceTensor(Tensor):
    """A tensor of the fake device that wraps a host tensor, `host`."""

    host: Tensor

    @staticmethod
    def around(host: Tensor) -> DeviceTensor:
        """Wrap a host tensor that has no other owner."""
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            DeviceTensor,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=HOST,
        )
        made.host = host
        return made

    # For torch's own code, above all autograd, it is a CPU tensor.
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the host; outside of `pretended` nothing is checked."""
        return _wrapped(func(*_host(args), **_hosts(kwargs)))


class DeviceGenerator(torch.Generator):
    """A generator that reports the fake device."""

    device = property(lambda self: DEVICE)  # type: ignore[assignment]


def _host(value: Any) -> Any:
    """Unwrap the arguments of an operation to host tensors."""
    if type(value) in (tuple, list):
        return type(value)(map(_host, value))
    return value.host if isinstance(value, DeviceTensor) else value


def _hosts(named: dict[str, Any] | None) -> dict[str, Any]:
    return {name: _host(value) for name, value in named.items()} if named else {}


def _wrapped(found: Any) -> Any:
    """Wrap the results of an operation as device tensors."""
    if type(found) in (tuple, list):
        return type(found)(map(_wrapped, found))
    return DeviceTensor.around(found) if type(found) is Tensor else found


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (tuple, list):
            yield from _tensors(value)


class _Kernels(TorchDispatchMode):
    """Intercepts operations below autograd: rejects mixed devices, logs reads, computes on host."""

    def __init__(self, log: Log, functions: _Functions) -> None:
        super().__init__()
        self._log = log
        self._functions = functions

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and importing the compiler takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        hosts: list[Tensor] = []
        device = False
        for one in _tensors([*args, *kwargs.values()] if kwargs else args):
            if isinstance(one, DeviceTensor):
                device = True
            else:
                hosts.append(one)
        if device:
            self._look(name, args, hosts)
        elif hosts or not self._functions.on_device():
            return func(*args, **(kwargs or {}))
        return _wrapped(func(*_host(args), **_hosts(kwargs)))

    def _look(self, name: str, args: tuple[Any, ...], hosts: list[Tensor]) -> None:
        """Log or reject an operation on device tensors."""
        if name in _READS:
            self._log.add("read", name)
        if name in _TAKE_HOST_INDICES:
            if any(one.dtype in (torch.bool, torch.uint8) for one in _tensors(args[1:2])):
                self._log.add("read", f"{name} by a mask")
            if isinstance(args[0], DeviceTensor):
                if any(x.dim() for x in hosts):
                    self._log.add("copy", f"{name} by indices of the host")
                return
        if name == "copy_":
            if hosts:
                self._log.add("read" if args[0] is hosts[0] else "copy", name)
            return
        if any(x.dim() for x in hosts):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{DEVICE} and cpu ({name})"
            )


def _check_generator(generator: torch.Generator | None, *, device: bool) -> None:
    if generator is not None and isinstance(generator, DeviceGenerator) != device:
        wanted = DEVICE if device else HOST
        raise RuntimeError(
            f"Expected a '{wanted.type}' device type for generator but found '{generator.device}'"
        )


class _Functions(TorchFunctionMode):
    """Intercepts torch calls from Python: moves, device arguments, host-only functions."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._calls: list[bool] = []

    def on_device(self) -> bool:
        """True if torch itself creates a tensor for a call with device tensors."""
        if self._calls:
            return self._calls[-1]
        return torch._C._current_autograd_node() is not None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__set__" and isinstance(args[1], Tensor) and not _exchangeable(*args[:2]):
            raise RuntimeError(f"a tensor of {args[1].device} set on one of {args[0].device}")
        if name in ("__get__", "__set__"):
            return func(*args, **kwargs)
        device = _has_device(args) or _has_device(kwargs.values())
        if name in ("to", "cpu", "cuda", "pin_memory") and isinstance(args[0], Tensor):
            return self._moved(name, func, args, kwargs)
        if device:
            special = getattr(self, f"_on_{name.strip('_')}", None)
            if special is not None:
                return special(*args, **kwargs)
            if name in _IN_FLOAT32 and torch.is_autocast_enabled("cuda") and "dtype" not in kwargs:
                args = tuple(map(_in_float32, args))
        target = kwargs.get("device")
        if target is not None:
            return self._placed(name, func, args, kwargs, torch.device(target))
        _check_generator(kwargs.get("generator"), device=device)
        return self._called(device, func, args, kwargs)

    def _called(self, device: bool, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._calls.append(device)
        try:
            return func(*args, **kwargs)
        finally:
            self._calls.pop()

    def _placed(self, name: str, func: Any, args: Any, kwargs: Any, target: torch.device) -> Any:
        """Handle a function with a `device` argument."""
        kwargs["device"] = HOST
        there = target.type == DEVICE.type
        if name in _FROM_HOST_DATA and there and not _has_device(args):
            self._log.add("copy", f"torch.{name}")
        _check_generator(kwargs.get("generator"), device=there)
        found = self._called(there, func, args, kwargs)
        return _wrapped(found) if there else _host(found)

    def _moved(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Handle `to`, `cpu`, `cuda` and `pin_memory`."""
        x, here = args[0], isinstance(args[0], DeviceTensor)
        if name == "pin_memory":
            pinned = x.detach()
            pinned.is_pretended_pinned = True
            return pinned
        rest = dict(kwargs)
        target = {"cpu": HOST, "cuda": DEVICE}.get(name) or _target(args[1:], kwargs)
        if target is None or (target.type == DEVICE.type) == here:
            kept = [a for a in args[1:] if not isinstance(a, str | torch.device)]
            rest.pop("device", None)
            if name == "to" and (kept or rest):
                kept = [HOST if isinstance(a, Tensor) and not here else a for a in kept]
                return self._called(here, func, (x, *kept), rest)
            return x
        late = rest.get("non_blocking") and (here or hasattr(x, "is_pretended_pinned"))
        self._log.add("sent" if late else "read" if here else "copy", name)
        if x.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("gradients through a move between devices")
        dtypes = [one for one in (*args[1:], rest.get("dtype")) if isinstance(one, torch.dtype)]
        with torch.no_grad():
            copied = _host(x.detach()).to(dtype=dtypes[0] if dtypes else x.dtype, copy=True)
        return copied if here else DeviceTensor.around(copied)

    def _on_tolist(self, x: DeviceTensor) -> Any:
        self._log.add("read", "tolist")
        return x.host.tolist()

    def _on_repr(self, x: DeviceTensor, **kwargs: Any) -> str:
        self._log.add("read", "repr")
        return f"{x.host!r} on {DEVICE}"

    def _on_format(self, x: DeviceTensor, spec: str) -> str:
        self._log.add("read", "format")
        return x.host.__format__(spec)

    def _on_numpy(self, x: DeviceTensor, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu()")

    _on_array = _on_numpy

    def _on_new_tensor(self, x: DeviceTensor, data: Any, **kwargs: Any) -> Any:
        self._log.add("copy", "new_tensor")
        return DeviceTensor.around(torch.tensor(data, dtype=kwargs.get("dtype", x.dtype)))

    def _on_one_hot(self, x: DeviceTensor, classes: int = -1) -> Tensor:
        """CUDA reads the labels only if the number of classes is not given."""
        if classes < 0:
            self._log.add("read", "one_hot")
        return DeviceTensor.around(F.one_hot(x.host, classes))


def _has_device(values: Iterable[Any]) -> bool:
    return any(isinstance(one, DeviceTensor) for one in _tensors(values))


def _in_float32(value: Any) -> Any:
    half = isinstance(value, DeviceTensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _target(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The target device of `Tensor.to`, if any."""
    for value in (*args, kwargs.get("device"), kwargs.get("other")):
        if isinstance(value, Tensor | torch.device):
            return value.device if isinstance(value, Tensor) else value
        if isinstance(value, str):
            return torch.device(value)
    return None


_Generator = torch.Generator


class _Generators(type):
    """Replaces `torch.Generator`; creates generators of the host or of the fake device."""

    def __call__(cls, device: Any = HOST) -> torch.Generator:
        return DeviceGenerator() if torch.device(device).type == DEVICE.type else _Generator()

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Generator)


class _GeneratorStandIn(metaclass=_Generators):
    pass


def _exchangeable(one: Tensor, other: Tensor) -> bool:
    """True if both are on the same device."""
    return isinstance(one, DeviceTensor) == isinstance(other, DeviceTensor)


class _Arrived:
    """Replaces `torch.cuda.Event`; always complete."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def _by_dtype(lists: Any, with_indices: bool = False) -> Any:
    """Replaces `Optimizer._group_tensors_by_device_and_dtype`, which reads devices in C++."""
    found = torch._C._group_tensors_by_device_and_dtype(lists, with_indices)
    return {(tensors[0][0].device, key[1]): (tensors, i) for key, (tensors, i) in found.items()}


_set_autocast = torch.set_autocast_enabled, torch.set_autocast_dtype


def _enable(device: str, enabled: bool) -> None:
    """Apply the fake device's autocast state to the CPU, in addition to `_IN_FLOAT32`."""
    for one in {device, "cpu"} if device == DEVICE.type else {device}:
        _set_autocast[0](one, enabled)


def _choose(device: str, dtype: torch.dtype) -> None:
    for one in {device, "cpu"} if device == DEVICE.type else {device}:
        _set_autocast[1](one, dtype)


@contextmanager
def pretended() -> Iterator[Log]:
    """Context in which `cuda:99` exists; yields the log of host waits."""
    log = Log()
    functions, engine = _Functions(log), torch.autograd._engine_run_backward

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        """Re-enter the mode: torch disables it inside functions that it intercepted."""
        with functions:
            return engine(*args, **kwargs)

    stand_ins = [
        (torch, "Generator", _GeneratorStandIn),
        (torch, "set_autocast_enabled", _enable),
        (torch, "set_autocast_dtype", _choose),
        # Moving a module creates new parameters; torch would otherwise swap the old ones' memory.
        (torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True),
        (torch.autograd, "_engine_run_backward", run_backward),
        (torch.cuda, "Event", _Arrived),
        (torch.cuda, "synchronize", lambda device=None: log.add("read", "synchronize")),
        (torch.cuda, "mem_get_info", lambda device=None: (2**34, 2**34)),
        (torch.cuda, "memory_reserved", lambda device=None: 0),
        (torch.cuda, "memory_allocated", lambda device=None: 0),
        (torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(_by_dtype)),
    ]
    with ExitStack() as stack:
        for owner, name, stand_in in stand_ins:
            stack.enter_context(patch.object(owner, name, stand_in))
        stack.callback(register_optimizer_step_post_hook(log.after_step).remove)
        stack.enter_context(_Kernels(log, functions))
        stack.enter_context(functions)
        yield log
