"""Errors of memory and of devices: told apart, and tried again in a process that is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.api.record import RETRIED, Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines import local
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.engines.process import Slot, Worker
from fewshot_bench.runner.faults import device_fault, out_of_memory
from fewshot_bench.store.store import Store
from tests.support.helpers import cells

SHORTAGES = (
    "CUDA out of memory. Tried to allocate 20.00 GiB.",
    "HIP out of memory. Tried to allocate 2.00 MiB.",
    "XPU out of memory. Tried to allocate 2.00 MiB.",
    "MPS backend out of memory (MPS allocated: 17.00 GB, max allowed: 18.13 GB).",
    "Invalid buffer size: 24.00 GB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "HIP error: hipErrorOutOfMemory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "miopenStatusAllocFailed",
    "rocblas_status_memory_error",
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
    "could not create a primitive",
)
FAULTS = (
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: misaligned address",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "HIP error: an illegal memory access was encountered",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
    "Native API failed. Native API returns: -1 (PI_ERROR_DEVICE_NOT_FOUND)",
)
OTHERS = (
    "Expected all tensors to be on the same device, but found at least two devices",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "linalg.cholesky: The factorization could not be completed",
)


@pytest.mark.parametrize("text", SHORTAGES)
def test_a_lack_of_memory_is_no_fault(text: str) -> None:
    assert out_of_memory(RuntimeError(text))
    assert not device_fault(RuntimeError(text))
    assert not device_fault(torch.AcceleratorError(text))
    assert not out_of_memory(ValueError(text))


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_found_among_the_causes_of_an_error(text: str) -> None:
    assert device_fault(RuntimeError(f"{text}\nmore")) == text
    error = ValueError("my method does not work")
    error.__context__ = RuntimeError(text)
    assert device_fault(error) == text
    assert not out_of_memory(error)


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_are_of_the_code(text: str) -> None:
    assert not device_fault(RuntimeError(text))
    assert not out_of_memory(RuntimeError(text))
    assert device_fault(torch.AcceleratorError(text)) == text


Run = Callable[..., dict[str, Record]]


@pytest.fixture
def run(methods: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Computes cells of `faulty`, with one line per try in `fits`; records by `how`."""
    monkeypatch.setenv("FSBENCH_TEST_FITS", str(tmp_path / "fits"))

    def compute(*options: str) -> dict[str, Record]:
        todo: list[RunSpec] = cells("faulty", options=options)
        with LocalEngine(Store(tmp_path / "store"), Settings(threads=1)) as engine:
            return {r.spec.options["how"]: r for r in engine.run(todo, lambda *_: None)}

    return compute


def tries(folder: Path) -> list[tuple[str, str]]:
    """How the tries ended, with their processes."""
    words = (folder / "fits").read_text().split()
    return list(zip(words[::2], words[1::2], strict=True))


def test_the_cells_of_a_lost_device_are_tried_in_another_process(run: Run, tmp_path: Path) -> None:
    records = run("how=once,never")
    assert {record.status for record in records.values()} == {"done"}, records
    lost, fresh = (process for how, process in tries(tmp_path) if how == "once")
    (innocent,) = (process for how, process in tries(tmp_path) if how == "never")
    assert lost not in (fresh, innocent)
    (incident,) = (i for i in records["once"].incidents if i["kind"] == RETRIED)
    assert "fault of its device (CUDA error: device-side assert triggered)" in incident["text"]
    assert not records["never"].incidents


@pytest.mark.parametrize("when", ["fit", "logits"])
def test_a_cell_that_always_loses_its_device_fails_alone(
    when: str, run: Run, tmp_path: Path
) -> None:
    records = run("how=always,never", f"when={when}")
    failed = records["always"]
    assert records["never"].status == "done"
    assert (failed.status, failed.transient) == ("failed", True)
    assert failed.error is not None
    assert failed.error["type"] == "AcceleratorError"
    assert "failing.py" in failed.error["traceback"]
    assert [i["kind"] for i in failed.incidents] == [RETRIED]
    assert Store(tmp_path / "store").get(failed.spec.key()) == failed
    first, second = (process for how, process in tries(tmp_path) if how == "always")
    assert first != second


def test_the_next_try_is_on_another_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [Slot("card:0/0", "cpu"), Slot("card:1/0", "cpu")]
    monkeypatch.setattr(local, "slots_of", lambda *_: slots)
    sent: list[str] = []
    send = Worker.send

    def note(worker: Worker, group: list[RunSpec], *passed: Any, **request: Any) -> None:
        sent.append(worker.slot.place)
        send(worker, group, *passed, **request)

    monkeypatch.setattr(Worker, "send", note)
    records = run("how=once")
    assert records["once"].status == "done"
    assert sent == ["card:0", "card:1"]
