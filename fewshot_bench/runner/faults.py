"""Errors of memory and of devices, told apart by their classes and by what libraries write.

`out_of_memory`: the work may fit if it is divided. `device_fault`: the device's context in this
process is lost, so that every later call fails too, whoever made the first one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

# "out of memory" of CUDA, HIP, XPU and MPS, and its forms in codes of the drivers
# (hipErrorOutOfMemory, UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY); then codes of the libraries of
# matrices (CUDNN_, CUBLAS_, CUSOLVER_, HIPBLAS_ ... STATUS_ALLOC_FAILED), cuDNN without an engine
# whose workspace fits, and a buffer beyond MPS's limit.
_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|out[ _]?of[ _]?(device_|host_)?memory"
    r"|out_of_resources|alloc(ation)?_failed|statusallocfailed|status_memory_error"
    r"|unable to find (a valid cudnn algorithm|an engine)|failed to allocate private mtlbuffer"
    r"|invalid buffer size: [\d.]+ [kmgt]",
    re.IGNORECASE,
)
# The whole message of oneDNN, on a CPU, if memory for a kernel cannot be allocated.
_ONEDNN = "could not create a primitive"
# Texts of torch before `AcceleratorError`, of libraries that find the context lost, and of SYCL.
_FAULT = re.compile(
    r"device-side assert|illegal (memory access|address|instruction)|misaligned address"
    r"|unspecified launch failure|launch timed out|uncorrectable ecc|hardware stack error"
    r"|(cuda|hip) error: |status_(execution_failed|internal_error|not_initialized|mapping_error)"
    r"|device[ _]lost|native api failed",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException) -> bool:
    """True if the error means that a device or the machine ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    is_memory = text.casefold() == _ONEDNN or _MEMORY.search(text) is not None
    return isinstance(error, RuntimeError) and is_memory


def device_fault(error: BaseException) -> str:
    """The first line of a device's fault among an error and its causes; empty if there is none.

    Only a new process can use the device again. A lack of memory is no fault.
    """
    for one in causes_of(error):
        # A class of torch 2.8.
        kind = getattr(torch, "AcceleratorError", ())
        text = str(one)
        is_fault = isinstance(one, kind) or _FAULT.search(text) is not None
        if isinstance(one, RuntimeError) and is_fault and not out_of_memory(one):
            return text.partition("\n")[0] or type(one).__name__
    return ""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, and those during which it was raised."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
