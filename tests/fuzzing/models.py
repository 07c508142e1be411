"""Readers of kept models: changed folders, half with recomputed digests, and their extra files."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch

import fewshot_bench as fb
from fewshot_bench.analysis import model as models
from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.backbones import loading
from fewshot_bench.images.decode import shrink
from fewshot_bench.plugins.models.suspects import RELABEL, correct
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_models import (
    ASKED,
    CARD,
    CONFIG,
    JPEG,
    REPORT,
    SOURCES,
    SUPPORT,
    SUSPECTS,
    TENSORS,
    Support,
    pack_sources,
    pack_support,
    read_model,
    read_sources,
    write_model,
)
from fewshot_bench.utils.errors import FsbenchError
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.support.helpers import cells, quick
from tests.support.own_sets import picture

METHODS, NAMES = ("linear-probe", "clip-lora"), ("cat", "dog")
IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
_TRUE: dict[str, torch.Tensor] = {}
_NEAR: dict[str, list[models.Neighbor]] = {}
_TINY: list[LoadedBackbone] = []
_LOAD = loading.load


def _load(name: str, device: str = "cpu", precision: str = "fp32") -> LoadedBackbone:
    """Load a backbone; the embedded one is loaded only once."""
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
        own = folder / "models" / spec.key()
        _keep_support(own)
        model = _opened(own)
        _TRUE[own.name], _NEAR[own.name] = model.logits([IMAGE]), model.nearest([IMAGE])[0]
    patterns = ((CONFIG, "json"), (TENSORS, "safetensors"), (SUPPORT, "safetensors"))
    extra = ((SUSPECTS, ""), (SOURCES, "json"), (REPORT, ""))
    return seeds_in(folder, *((f"models/*/{name}", kind) for name, kind in (*patterns, *extra)))


def _keep_support(folder: Path) -> None:
    """Add training images to a model, as `adapt --keep-support` does."""
    config, tensors = read_model(folder)
    rng, width = np.random.default_rng(1), _TINY[0].embed_dim
    features = rng.normal(size=(6, width)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    pictures = tuple(shrink(picture(seed)) for seed in range(6))
    support = pack_support(Support(features, np.arange(6) % len(config.classnames), pictures))
    heads = "image,label,suggested,probability"
    extras = {
        SUPPORT: support,
        REPORT: b"<!doctype html><title>A model</title>",
        SUSPECTS: f"{heads}\n0.jpg,cat,dog,0.9\n3.jpg,dog,cat,0.7\n5.jpg,,-,\n".encode(),
        SOURCES: pack_sources("folder:photos", {"method": "auto", "seed": 1, "options": ["c=1"]}),
    }
    write_model(folder, config, tensors, (folder / CARD).read_text(), extras)


def _opened(folder: Path) -> models.Model:
    return models.open_model(folder, "cpu", None, lambda text: None)


def _read(folder: Path, file: Path) -> bool:
    """Accepted unresealed models give the true answer; resealed ones, a possible one."""
    own = file.parent
    if file.name in (REPORT, SUSPECTS, SOURCES):
        return _read_extra(own, file)
    try:
        model = _opened(own)
        assert torch.equal(model.logits([IMAGE]), _TRUE[own.name])
        assert model.nearest([IMAGE])[0] == _NEAR[own.name]
        return True
    except FsbenchError:
        if not _sealed(own, folder / "sealed"):
            raise
    model = _opened(folder / "sealed")
    found = model.logits([IMAGE])
    assert found.ndim == 2
    assert bool(found.isfinite().all())
    near, support = model.nearest([IMAGE])[0], model.support
    assert support is not None
    assert near
    assert all(math.isclose(max(abs(one.similarity), 1), 1, abs_tol=1e-4) for one in near)
    assert all(support.pictures[one.number].startswith(JPEG) for one in near)
    assert {one.classname for one in near} <= {*model.classnames}
    return True


def _read_extra(own: Path, file: Path) -> bool:
    """A model is the same whatever these files hold; their own readers refuse them in one line."""
    assert torch.equal(_opened(own).logits([IMAGE]), _TRUE[own.name])
    if file.name == SOURCES:
        assert {*read_sources(own).asked} <= {*ASKED}
    if file.name == SUSPECTS:
        items = [fb.Item(f"{number}.jpg", number % 2, NAMES[number % 2]) for number in range(6)]
        corrected, note = correct(items, NAMES, RELABEL.read(file))
        assert {item.id for item in corrected} <= {item.id for item in items}
        assert {(item.label, item.classname) for item in corrected} == {*enumerate(NAMES)}
        assert all(line.isprintable() for line in note)
    return True


def _sealed(folder: Path, to: Path) -> bool:
    """Copy a folder with digests that match its content; False if the config cannot be sealed."""
    shutil.copytree(folder, to)
    try:
        plain = json.loads((folder / CONFIG).read_bytes())
        plain.pop("digest", None)
        for name, file in (("tensors", TENSORS), ("support", SUPPORT)):
            plain[name] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        plain["digest"] = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
        (to / CONFIG).write_text(json.dumps(plain))
    except (ValueError, RecursionError, AttributeError, TypeError, OverflowError):
        return False
    return (to / CARD).exists()


SUBJECTS = (Subject("kept models", 12, _build, _read),)
