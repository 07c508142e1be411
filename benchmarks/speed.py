"""Speed, memory and work of every method against the published code, on the same weights and batch.

    python -m benchmarks.speed [--models ViT-B-32,ViT-B-16] [--classes 10,100,1000] [--pairs 3]

Random weights of CLIP's sizes, class names of ImageNet. Both run in turn in one process; ratios are
official to ours per pair, and medians are shown (with 1000 classes the official step is timed once,
its text side in parts that fit into memory). The official CoOp step encodes its images; ours is
shown on views that are already encoded (`coop step`), as after any earlier run, and with encoding
(`coop step, encoding`). MB, images and text tokens are ours/official.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks import official, subjects
from benchmarks.frozen import frozen_rows
from benchmarks.measure import in_pairs, machine, peak_megabytes, product_peak, work_of
from benchmarks.table import Row, heading
from fewshot_bench.backbones.open_clip import OpenClipBackbone

OFFICIAL_TOKENS = 77
STEPS: Mapping[str, Callable[[OpenClipBackbone, tuple[str, ...]], subjects.Step]] = {
    "clip-lora step": subjects.clip_lora,
    "coop step": subjects.coop,
    "coop step, encoding": partial(subjects.coop, encode=True),
}
# With more classes, an official step takes minutes and is timed once.
MANY = 500
# Matrix products of both encoders' blocks, to measure the machine's peak rate.
PEAK_SHAPES = ((6304, 768, 3072), (6304, 3072, 768), (1600, 768, 2304), (4096, 4096, 4096))


def step_rows(
    name: str, classes: tuple[int, ...], pairs: int, peak: float, methods: tuple[str, ...]
) -> Iterator[Row]:
    """Training steps of CLIP-LoRA and CoOp, the latter with features cached and with encoding."""
    backbone = subjects.backbone_of(name)
    for method in methods:
        for count in classes:
            step = STEPS[method](backbone, subjects.classnames(count))
            gaps = step.gaps() if count <= official.PART else None
            many = count > MANY
            found = in_pairs(
                step.ours, step.official, 1 if many else pairs, 2 if many else 1, warm=not many
            )
            work = work_of(step.ours)
            yield Row(
                method,
                name,
                count,
                found,
                memory=(peak_megabytes(step.ours), _official_memory(step, count)),
                images=(work.images, subjects.BATCH),
                tokens=(work.text_tokens, OFFICIAL_TOKENS * count),
                fraction=work.flops / found.ours / peak,
                gaps=gaps,
            )


def _official_memory(step: subjects.Step, count: int) -> float | None:
    """Peak memory of the official step, or None if it does not fit."""
    return peak_megabytes(step.official) if count <= official.PART else None


def text_rows(name: str, classes: tuple[int, ...], pairs: int, peak: float) -> Iterator[Row]:
    """Text features at evaluation, as zero-shot computes them for its classes."""
    backbone = subjects.backbone_of(name)
    text = official.plain_attentions(backbone.module.transformer)
    for count in classes:
        prompts = [subjects.TEMPLATE.replace("{}", one) for one in subjects.classnames(count)]

        @torch.no_grad()
        def theirs(prompts: list[str] = prompts) -> torch.Tensor:
            tokens = backbone.tokenize(prompts)
            embedded = backbone.module.token_embedding(tokens)
            return official.text_features(backbone.module, embedded, tokens.argmax(dim=-1), text)

        def ours(prompts: list[str] = prompts) -> torch.Tensor:
            return F.normalize(backbone.encode_text(prompts), dim=-1)

        gap = subjects.relative(ours(), theirs())
        found = in_pairs(ours, theirs, pairs, repeats=3)
        work = work_of(ours)
        yield Row(
            "text features",
            name,
            count,
            found,
            images=(0, 0),
            tokens=(work.text_tokens, OFFICIAL_TOKENS * count),
            fraction=work.flops / found.ours / peak,
            gaps=(gap, 0.0),
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--models", type=_names, default=("ViT-B-32", "ViT-B-16"))
    parser.add_argument("--classes", type=_names, default=("10", "100", "1000"))
    parser.add_argument("--methods", type=_names, default=("clip-lora", "coop", "text", "frozen"))
    parser.add_argument("--pairs", type=int, default=3, help="pairs of calls (default: 3)")
    arguments = parser.parse_args()
    classes = tuple(int(count) for count in arguments.classes)
    peak = product_peak(PEAK_SHAPES)
    print(machine())
    print(f"peak of matrix products: {peak / 1e9:,.0f} GFLOP/s\n")
    print(heading())
    steps = tuple(name for name in STEPS if name.partition(" ")[0] in arguments.methods)
    for name in arguments.models:
        for row in step_rows(name, classes, arguments.pairs, peak, steps):
            print(row.text(), flush=True)
        if "text" in arguments.methods:
            for row in text_rows(name, classes, arguments.pairs, peak):
                print(row.text(), flush=True)
    if "frozen" in arguments.methods:
        for row in frozen_rows(classes, arguments.pairs):
            print(row.text(), flush=True)


if __name__ == "__main__":
    main()
