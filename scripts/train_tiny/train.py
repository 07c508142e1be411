"""Train the tiny CLIP with a contrastive loss that accounts for other true captions."""

from __future__ import annotations

import itertools
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from torch.nn import functional as F

from . import captions
from .augment import Composer, sample_rows
from .captions import Caption, compare, make_caption
from .model import MEAN, STD, VERSION, Vocabulary, build, encode_text, resume, save
from .pool import Pool

CAPTIONS, VIEWS = 128, 3
PEAK_RATE, WARMUP, WEIGHT_DECAY = 1.5e-3, 200, 0.05
KIND_SHARES = (0.27, 0.33, 0.2, 0.2)
log = logging.getLogger(__name__)


def all_texts() -> list[str]:
    """Return texts that hold every token which a training caption can have."""
    names = [*captions.OBJECTS, *itertools.chain(*captions.SYNONYMS.values())]
    names += [str(i) for i in range(10)]
    templates = {*captions.GENERIC, *captions.NUMBER, *captions.SHAPE, *captions.TEXTURE}
    templates |= {"{} on a {} background"}
    texts = [t.replace("{}", name) for t in templates for name in names]
    words = [*itertools.chain(*captions.CASES), *captions.LETTERS]
    texts += [t.replace("{}", word) for t in captions.LETTER for word in words]
    return [*texts, *captions.COLORS]


def sample_concepts(rng: np.random.Generator) -> np.ndarray:
    """Return the concepts of a batch of captions: digits, letters, shapes and textures."""
    bounds = (0, captions.FIRST_LETTER, captions.FIRST_SHAPE, captions.FIRST_TEXTURE)
    ends = (*bounds[1:], len(captions.OBJECTS))
    kinds = rng.choice(4, size=CAPTIONS, p=KIND_SHARES)
    return np.array([rng.integers(bounds[kind], ends[kind]) for kind in kinds])


def claims_of(batch: list[Caption]) -> np.ndarray:
    """Return what the captions claim, one row for each."""
    return np.array([(c.concept, c.case, c.color, c.background) for c in batch])


def soft_cross_entropy(
    logits: torch.Tensor, true: torch.Tensor, unsure: torch.Tensor
) -> torch.Tensor:
    """Return the cross entropy against an even spread over the true pairs of each row."""
    logs = F.log_softmax(logits.masked_fill(unsure, -1e4), dim=1)
    weights = true.float() / true.sum(1, keepdim=True).clamp(min=1)
    return -(weights * logs).sum(1).mean()


def contrastive_loss(
    model: CLIP, images: torch.Tensor, text: torch.Tensor, true: np.ndarray, unsure: np.ndarray
) -> torch.Tensor:
    """Return the symmetric contrastive loss between image and text features."""
    scale = model.logit_scale.exp()
    logits = scale * F.normalize(images, dim=1) @ F.normalize(text, dim=1).T
    is_true, is_unsure = torch.from_numpy(true), torch.from_numpy(unsure)
    by_image = soft_cross_entropy(logits, is_true, is_unsure)
    return (by_image + soft_cross_entropy(logits.T, is_true.T, is_unsure.T)) / 2


def make_optimizer(model: CLIP) -> torch.optim.Optimizer:
    """Return AdamW that decays matrices only."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim >= 2 and "embedding" not in name
        (matrices if decays else others).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warmup, then half a cosine."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


@dataclass(frozen=True)
class Stage:
    """One run of training: its seed, its schedule, where it starts and how it augments."""

    seed: int
    steps: int
    stop: int
    start: Path | None = None
    crops: float = 0.0
    flips: float = 0.0
    coarse: float = 0.3


def describe(stage: Stage, step: int, earlier: str) -> dict[str, str]:
    """Return the metadata of a file saved after `step` steps of a stage."""
    line = (
        f"seed {stage.seed}, {step} of {stage.steps} steps, {step * CAPTIONS * VIEWS} images, "
        f"crops {stage.crops}, flips {stage.flips}, coarse {stage.coarse}, script version {VERSION}"
    )
    return {"training": f"{earlier}; then {line}" if earlier else line}


def train(pool: Pool, out: Path, stage: Stage, save_every: int = 100) -> None:
    """Train for a fixed number of steps and save the model now and then and at the end."""
    vocabulary = Vocabulary(all_texts())
    model = build(stage.seed, vocabulary.token_ids)
    earlier = resume(model, stage.start) if stage.start else ""
    optimizer, seed, steps = make_optimizer(model), stage.seed, stage.steps
    stream = seed + 1000 * (earlier.count("; then ") + 1 if earlier else 0)
    rng = np.random.default_rng([stream, 2])
    composer = Composer(pool, stream, stage.crops, stage.flips, stage.coarse)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    started, total = time.monotonic(), 0.0
    for step in range(stage.stop):
        batch = [make_caption(int(concept), rng) for concept in sample_concepts(rng)]
        claims = claims_of(batch)
        rows = sample_rows(np.repeat(claims, VIEWS, axis=0), rng)
        images = (composer(rows) - mean) / std
        text = encode_text(model, *vocabulary.batch([caption.text for caption in batch]))
        loss = contrastive_loss(model, model.encode_image(images), text, *compare(rows, claims))
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        total += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            log.info("step %d loss %.4f, %.0f s", step + 1, total / 100, seconds)
            total = 0.0
        if (step + 1) % save_every == 0 or step + 1 == stage.stop:
            save(model, vocabulary.token_ids, out, describe(stage, step + 1, earlier))
    spread = model.token_embedding.weight.detach().std().item()
    log.info("embedding std %.4f, logit scale %.2f", spread, model.logit_scale.exp().item())
