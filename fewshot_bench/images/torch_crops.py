"""Crops cut by torch instead of Pillow (`--augment device`), from decoded images (h, w, 3) uint8.

On a CPU `cut` resizes each crop in a thread; for an accelerator `pack` collects the crops of a
batch in memory from which they are sent, and `resize` makes matrix products of all of them. Both
resize with antialiasing as Pillow does, in two passes that round to whole levels;
their weights are rounded otherwise, so that few pixels differ, by a level or two of 255.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.images.augment import AT_ONCE, Crop
from fewshot_bench.images.augmix import Pixels
from fewshot_bench.utils.prefetch import spread
from fewshot_bench.utils.transfer import reserve, send

# The parameter of the cubic kernel in Pillow and in torch's antialiased resizing.
CUBIC = -0.5
LARGEST = 1 << 26
"""Values of crops, padded to one size, that are resized at once: 256 MiB on the device."""


def cut(images: Sequence[Pixels], crops: Sequence[Crop], into: Tensor, threads: int) -> None:
    """Write a crop of every image into the rows of `into` (b, 3, h, w), resized and mirrored."""
    size = into.shape[2:]

    def write(row: int) -> None:
        part = torch.from_numpy(_part(images[row], crops[row])).permute(2, 0, 1)[None]
        resized = F.interpolate(part, size, mode=crops[row].interpolation, antialias=True)[0]
        into[row] = resized.flip(-1) if crops[row].mirrored else resized

    spread(write, range(len(crops)), threads, AT_ONCE)


def _part(image: Pixels, crop: Crop) -> Pixels:
    left, top, right, bottom = crop.box
    return image[top:bottom, left:right]


@dataclass(frozen=True)
class Packed:
    """Crops of some images in host memory: `pixels` (n, most, most, 3) uint8, padded at the end.

    shapes: (n, 3) float32: height, width, and 1 for a crop that is to be mirrored. interpolation:
    as in `Augment`.
    """

    pixels: Tensor
    shapes: Tensor
    interpolation: str


def pack(
    images: Sequence[Pixels], crops: Sequence[Crop], device: torch.device, threads: int
) -> list[Packed]:
    """Copy a crop of every image, in parts that the device can resize at once."""
    sizes = [(c.box[3] - c.box[1], c.box[2] - c.box[0]) for c in crops]
    packed, start = [], 0
    while start < len(crops):
        end, most = start, (0, 0)
        while end < len(crops):
            grown = max(most[0], sizes[end][0]), max(most[1], sizes[end][1])
            if end > start and (end - start + 1) * 3 * grown[0] * grown[1] > LARGEST:
                break
            end, most = end + 1, grown
        pixels = reserve((end - start, *most, 3), torch.uint8, device)
        into = pixels.numpy()

        def copy(row: int, into: Pixels = into, start: int = start) -> None:
            part = _part(images[start + row], crops[start + row])
            into[row, : part.shape[0], : part.shape[1]] = part

        spread(copy, range(end - start), threads, AT_ONCE)
        facts = [(*sizes[row], float(crops[row].mirrored)) for row in range(start, end)]
        shapes = torch.tensor(facts, dtype=torch.float32)
        packed.append(Packed(pixels, shapes, crops[start].interpolation))
        start = end
    return packed


@torch.no_grad()
def resize(packed: Sequence[Packed], size: tuple[int, int], device: torch.device) -> Tensor:
    """uint8 (b, 3, h, w) on the device: all crops at one size."""
    with torch.autocast(device.type, enabled=False):
        return torch.cat([_resize(part, size, device) for part in packed])


def _resize(packed: Packed, size: tuple[int, int], device: torch.device) -> Tensor:
    pixels, shapes = send(packed.pixels, device), send(packed.shapes, device)
    count, height, width, _ = pixels.shape
    kernel, never = packed.interpolation, torch.zeros_like(shapes[:, 2])
    across = _weights(shapes[:, 1], size[1], width, shapes[:, 2], kernel)
    down = _weights(shapes[:, 0], size[0], height, never, kernel)
    rows = pixels.permute(0, 3, 1, 2).float().reshape(count, 3 * height, width)
    narrow = _levels(torch.bmm(rows, across.mT)).view(count, 3, height, size[1])
    return _levels(torch.matmul(down[:, None], narrow)).to(torch.uint8)


def _levels(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)


def _cubic(away: Tensor) -> Tensor:
    """Keys' cubic convolution of Pillow."""
    near = ((CUBIC + 2) * away - (CUBIC + 3)) * away * away + 1
    far = (((away - 5) * away + 8) * away - 4) * CUBIC
    return torch.where(away < 1, near, far) * (away < 2)


KERNELS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "bicubic": _cubic,
    "bilinear": lambda away: (1 - away).clamp(min=0),
}


def _weights(lengths: Tensor, size: int, most: int, mirrored: Tensor, kernel: str) -> Tensor:
    """(n, size, most): the weights of `lengths` (n,) values in each of `size` resized ones.

    kernel: of `KERNELS`, widened by the factor of a reduction. mirrored: (n,), 1 for weights in
    reverse order.
    """
    scale = (lengths / size)[:, None, None]
    places = torch.arange(size, dtype=torch.float32, device=lengths.device)[:, None]
    flipped = mirrored[:, None, None]
    places = places + flipped * (size - 1 - 2 * places)
    values = torch.arange(most, dtype=torch.float32, device=lengths.device)
    away = ((values + 0.5 - (places + 0.5) * scale) / scale.clamp(min=1)).abs()
    weights = KERNELS[kernel](away) * (values < lengths[:, None, None])
    return weights / weights.sum(dim=-1, keepdim=True)
