"""Digests of tensors where they are: summed on their device, and read by the host once.

`checksums` finds every change of one place, and every change of many that is not made to be missed;
a digest of all bytes would cost more than some fits. Sums of whole numbers are exact in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

WHOLE = 1 << 16
"""Tensors of fewer bytes are read whole."""
# Words of 64 bits are summed by their place modulo a prime, so that exchanged values, rows or
# columns change the sums, too.
PRIME, WORD = 1021, 8


def checksums(groups: Sequence[Iterable[Tensor]], device: torch.device) -> list[bytes]:
    """A digest per group of tensors, of their values, dtypes, shapes and order."""
    described = [list(group) for group in groups]
    parts = [[part for one in group for part in _parts(one, device)] for group in described]
    read = torch.cat([part for group in parts for part in (*group, _nothing(device))]).cpu().numpy()
    found, start = list[bytes](), 0
    for tensors, group in zip(described, parts, strict=True):
        stop = start + sum(map(len, group))
        sha = hashlib.sha256(repr([(one.dtype, one.shape) for one in tensors]).encode())
        sha.update(read[start:stop].data)
        found.append(sha.digest())
        start = stop
    return found


def _nothing(device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=device)


def _parts(tensor: Tensor, device: torch.device) -> list[Tensor]:
    """Bytes (n,) that stand for a tensor."""
    values = tensor.detach().to(device).flatten()
    if values.data_ptr() % WORD:
        values = values.clone()
    data = values.view(torch.uint8)
    if len(data) < WHOLE:
        return [data]
    rows = len(data) // (WORD * PRIME)
    stop = rows * WORD * PRIME
    sums = data[:stop].view(torch.int64).view(rows, PRIME).sum(0)
    return [sums.view(torch.uint8), data[stop:]]
