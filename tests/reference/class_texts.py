"""Class scores from several texts of each class, as plain loops over images and texts.

CuPL (Pratt et al., ICCV 2023): the mean of the unit text features, at unit length. VDT (Menon and
Vondrick, ICLR 2023) and WaffleCLIP (Roth et al., ICCV 2023): the mean of the cosines. None of the
three takes rounds or stops; WaffleCLIP pools 2 x `waffle_count` = 30 texts of a class.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    """A vector at unit length."""
    return vector / vector.square().sum().sqrt()


def scores(images: Tensor, texts: list[Tensor], pooling: str) -> Tensor:
    """(n, classes) of raw image features (n, d) and the raw text features (m, d) of each class."""
    rows = []
    for image in images:
        row = []
        for of_class in texts:
            cosines = [unit(image) @ unit(text) for text in of_class]
            if pooling == "unit-mean":
                row.append(unit(image) @ unit(sum(unit(text) for text in of_class)))
            elif pooling == "mean":
                row.append(sum(cosines) / len(cosines))
            else:
                row.append(max(cosines))
        rows.append(torch.stack(row))
    return torch.stack(rows)
