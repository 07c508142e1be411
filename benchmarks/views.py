"""Methods at test time: what prediction adds to the encoding of views, and what is held of them.

    python -m benchmarks.views [--queries 128] [--many 5000] [--rounds 3]

CPU seconds of one thread, the least of all rounds. `tiny` encodes 64 views of small pictures; a
ViT-B/16 with random weights encodes 16 images, and prediction is timed on random features of its
width. Memory is the growth of the largest resident set while MTA answers for many queries with an
encoder that does nothing, without a folder for features and with one.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from fsbench_methods.mta import MtaClassifier
from fsbench_methods.query_views import ViewClassifier, in_blocks
from fsbench_methods.tda import Tda, TdaClassifier
from fsbench_methods.zero import ZeroClassifier
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from benchmarks.images import Transform, photograph
from fewshot_bench import DatasetCard, Item
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter

VIEWS, WIDTH, SIZE, SCALE = 64, 512, 16, 100.0
CPU = torch.device("cpu")


def cpu(work: Callable[[], Any], rounds: int) -> float:
    """The least CPU seconds of one call."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def each(answer: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> None:
    """Answer all parts."""
    for part in parts:
        answer(part)


class Pictures:
    """Small pictures in memory, each another one by its first pixels."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._image = photograph(0, 64, 48)

    def card(self) -> DatasetCard:
        """A card with one class."""
        return DatasetCard("pictures", "Pictures", ("image",))

    def items(self) -> dict[str, tuple[Item, ...]]:
        """All of them in test."""
        return {"test": tuple(Item(str(n), 0, "image") for n in range(self._count))}

    def read(self, item: Item) -> bytes:
        """A PNG file."""
        image, stream = self._image.copy(), io.BytesIO()
        image.putpixel((0, 0), (int(item.id) % 256, int(item.id) // 256, 7))
        image.save(stream, "PNG", compress_level=1)
        return stream.getvalue()


class Nothing(Transform):
    """An encoder of `WIDTH` features that costs nothing."""

    image_size = (SIZE, SIZE)
    device, logit_scale, weights_digest, precision = CPU, SCALE, "0", "fp32"
    _mean, _std = (0.0,), (1.0,)

    def __init__(self) -> None:
        self._steps = image_transform_v2(PreprocessCfg(size=SIZE), is_train=False).transforms[:-2]

    def encode_image(self, pixels: Tensor, *, projected: bool = True) -> Tensor:
        """The first pixels."""
        return pixels.flatten(1)[:, :WIDTH].float() + 1


def queries_of(count: int, backbone: Any, folder: Path | None = None) -> Any:
    """The pictures as a method gets them."""
    pictures = Pictures(count)
    source = ImageSource(ImageFiles(pictures, pictures.items()["test"]), count, backbone)
    return image_view(source, FeatureCache(folder), Meter(CPU), phase="encode_queries")


def classifiers(classes: Tensor, backbone: Any) -> dict[str, ViewClassifier]:
    """MTA and ZERO with their defaults."""
    return {
        "mta": MtaClassifier(classes, backbone, VIEWS, 4.0, 0.2),
        "zero": ZeroClassifier(classes, backbone, VIEWS, 0.3),
    }


def print_tiny(count: int, rounds: int) -> None:
    """Print prediction over the encoding of the views, at the smallest encoder there is."""
    backbone = load_tiny()
    classes = F.normalize(torch.randn(100, backbone.embed_dim), dim=-1)
    blocks: list[Tensor] = []

    def encode() -> None:
        with accounted(FeatureCache(None), Meter(CPU)):
            queries = queries_of(count, backbone)
            with queries._meter.phase("predict"):
                blocks[:] = in_blocks(queries, VIEWS)

    encoding = cpu(encode, rounds)
    for name, classifier in classifiers(classes, backbone).items():
        spent = cpu(partial(each, classifier.answer, blocks), rounds)
        print(
            f"tiny, {count} queries, 100 classes: {name:<5} {1e3 * spent / count:7.3f} ms a query, "
            f"encoding {1e3 * encoding / count:8.3f} ms, ratio {1 + spent / encoding:.4f}"
        )


def print_large(rounds: int) -> None:
    """Print the same at ViT-B/16, and TDA's cost and state."""
    module = open_clip.create_model("ViT-B-16", pretrained=None).eval()
    steps = open_clip.transform.image_transform(224, is_train=False)
    backbone = OpenClipBackbone("random", module, open_clip.get_tokenizer("ViT-B-16"), steps)
    pixels = torch.randn(16, 3, 224, 224)
    encoding = VIEWS * cpu(lambda: backbone.encode_image(pixels), rounds) / len(pixels)
    views = F.normalize(1 + torch.randn(64, VIEWS, WIDTH), dim=-1)
    for count in (100, 1000):
        classes = F.normalize(1 + torch.randn(count, WIDTH), dim=-1)
        for name, classifier in classifiers(classes, backbone).items():
            spent = cpu(partial(classifier.answer, views), rounds) / len(views)
            print(
                f"ViT-B/16, {count:>4} classes: {name:<5} {1e3 * spent:7.3f} ms a query, encoding "
                f"{1e3 * encoding:8.0f} ms, ratio {1 + spent / encoding:.5f}"
            )
        stream = TdaClassifier(classes, backbone, Tda()).start()
        features = views[:, 0].repeat(4, 1)
        spent = cpu(partial(each, stream._answer, [*features]), rounds)
        kept = (*vars(stream._positive).values(), *vars(stream._negative).values())
        held = sum(one.nbytes for one in kept)
        print(
            f"ViT-B/16, {count:>4} classes: tda   {1e3 * spent / len(features):7.3f} ms a query, "
            f"state {held / 1e6:.1f} MB"
        )


def answer_many(count: int, on_disk: bool) -> None:
    """Print memory and disk of MTA's answers to many queries."""
    torch.set_num_threads(1)
    backbone: Any = Nothing()
    classes = F.normalize(torch.randn(100, WIDTH), dim=-1)
    with tempfile.TemporaryDirectory() as folder:
        queries = queries_of(count, backbone, Path(folder) if on_disk else None)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with queries._meter.phase("predict"):
            classifiers(classes, backbone)["mta"].logits(queries)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
        spent = time.process_time() - start
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*.*s")) / 1e6
    whole = count * VIEWS * WIDTH * 4 / 1e6
    where = f"{disk:7.0f} MB on disk" if on_disk else "none on disk"
    print(
        f"{count} queries: {grown:.0f} MB grown, {where}, all views {whole:.0f} MB, {spent:.0f} s"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print_tiny(asked.queries, asked.rounds)
    print_large(asked.rounds)
    for on_disk in (False, True):
        process = multiprocessing.get_context("spawn").Process(
            target=answer_many, args=(asked.many, on_disk)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
