"""Kept models: folders that were changed, half of them with digests that fit again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from fewshot_bench.analysis import model as models
from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.backbones import loading
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.model_files import CARD, CONFIG, TENSORS
from fewshot_bench.utils.errors import FsbenchError
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.helpers import cells, quick

METHODS = ("linear-probe", "tip-adapter", "coop", "clip-lora")
IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
_TRUE: dict[str, torch.Tensor] = {}
_TINY: list[LoadedBackbone] = []
_LOAD = loading.load


def _load(name: str, device: str = "cpu", precision: str = "fp32") -> LoadedBackbone:
    """The embedded backbone is loaded once."""
    if (name, precision) != ("tiny", "fp32"):
        return _LOAD(name, device, precision)
    if not _TINY:
        _TINY.append(_LOAD(name, device, precision))
    return _TINY[0]


def _build(folder: Path) -> list[Seed]:
    loading.load = _load
    session = Session(models=folder)
    for spec in cells(*METHODS, options=quick(METHODS), limit=1):
        record = run_one(spec, session).record
        assert record.status == "done", record.error
        _TRUE[spec.key()] = _logits(folder / "models" / spec.key())
    return seeds_in(folder, (f"models/*/{CONFIG}", "json"), (f"models/*/{TENSORS}", "safetensors"))


def _logits(folder: Path) -> torch.Tensor:
    return models.open_model(folder, "cpu", None, lambda text: None).logits([IMAGE])


def _read(folder: Path, file: Path) -> bool:
    """Whatever is used as it lies gives the true answer; with new digests, a finite one."""
    own, true = file.parent, _TRUE[file.parent.name]
    try:
        assert torch.equal(_logits(own), true)
        return True
    except FsbenchError:
        if not _sealed(own, folder / "sealed"):
            raise
    found = _logits(folder / "sealed")
    assert found.ndim == 2
    assert bool(found.isfinite().all())
    return True


def _sealed(folder: Path, to: Path) -> bool:
    """Write a folder with the digests of what it holds; False where no config can have one."""
    shutil.copytree(folder, to)
    try:
        plain = json.loads((folder / CONFIG).read_bytes())
        plain.pop("digest", None)
        plain["tensors"] = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
        plain["digest"] = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
        (to / CONFIG).write_text(json.dumps(plain))
    except (ValueError, RecursionError, AttributeError, TypeError, OverflowError):
        return False
    return (to / CARD).exists()


SUBJECTS = (Subject("kept models", 12, _build, _read),)
