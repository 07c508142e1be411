"""A classifier as one program from pixels to logits, for `torch.export`.

`trace` is the entry point. The program computes the same as the classifier's own code, for any
number of images: the code runs once on a view whose pixels are the input of the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.method import Classifier
from fewshot_bench.utils.errors import NotApplicableError

TRACED = 4
"""Batch size used for tracing; the traced program accepts any batch size."""


class PixelView:
    """`Images` whose pixels are computed in a program; all of them come in one batch."""

    def __init__(self, backbone: LoadedBackbone, pixels: Tensor) -> None:
        self._backbone = backbone
        self._pixels = pixels

    def __len__(self) -> int:
        return self._pixels.shape[0]

    def batches(
        self, size: int, *, order: Any = None, augment: Any = None, rng: Any = None, **device: Any
    ) -> Iterator[Tensor]:
        """Normalized pixels (n, 3, h, w); NotApplicableError for another order or crops."""
        if order is not None or augment is not None:
            raise NotApplicableError("it asks for images in an order of its own or for crops")
        return iter((self._pixels,))

    @property
    def raw_features(self) -> Tensor:
        """(n, width) features of the frozen backbone before normalization."""
        return self._backbone.encode_image(self._pixels)

    @property
    def unprojected(self) -> Tensor:
        """(n, tower's width) rows of the frozen image tower before its projection."""
        return self._backbone.encode_image(self._pixels, projected=False)

    @property
    def features(self) -> Tensor:
        """(n, width) unit-length features of the frozen backbone."""
        return F.normalize(self.raw_features, dim=-1)

    @property
    def scores(self) -> Tensor:
        """NotApplicableError: a program has one method alone."""
        raise NotApplicableError("it is on top of another method")

    def views(self, *asked: Any, **more: Any) -> Tensor:
        """NotApplicableError: a program draws no crops."""
        raise NotApplicableError("it asks for augmented views of the images that it classifies")

    def rng(self, name: str) -> torch.Generator:
        """NotApplicableError: a program draws no numbers."""
        raise NotApplicableError("it draws random numbers for the images that it classifies")

    def progress(self, done: int, total: int) -> None:
        """Nobody listens to a program."""


class _Program(nn.Module):
    """uint8 pixels (n, 3, h, w) to float32 logits (n, classes)."""

    def __init__(self, classifier: Classifier, backbone: LoadedBackbone) -> None:
        super().__init__()
        # The tuple hides submodules, so that unused weights do not become part of the program.
        self._parts = (classifier, backbone)

    def forward(self, pixels: Tensor) -> Tensor:
        classifier, backbone = self._parts
        return classifier.logits(PixelView(backbone, backbone.normalize(pixels))).float()


def trace(classifier: Classifier, backbone: LoadedBackbone) -> torch.export.ExportedProgram:
    """The program of a classifier, on the backbone's device.

    Input: `pixels` (n, 3, h, w) uint8, RGB, of the backbone's image size, n of at least 1. Output:
    (n, classes) float32. NotApplicableError with the reason if the code cannot be exported.
    """
    program = _Program(classifier, backbone).eval()
    pixels = torch.zeros(TRACED, 3, *backbone.image_size, dtype=torch.uint8, device=backbone.device)
    with torch.no_grad():
        # A first call fills caches with concrete values, not with traced ones.
        program(pixels)
        try:
            return torch.export.export(
                program, (pixels,), dynamic_shapes=({0: torch.export.Dim("images")},), strict=False
            )
        except NotApplicableError:
            raise
        except Exception as error:
            raise NotApplicableError(_reason(error)) from error


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    if "specialized" in words or "Constraints violated" in words:
        return (
            "its code is for one number of images: it loops over them, or takes len(tensor) for "
            "tensor.shape[0] (row_blocks of fewshot_bench.training.provisional serves loops)"
        )
    return f"torch.export cannot follow its code ({type(error).__name__}: {words:.160})"
