"""Compose training images from pool tiles, with heavy augmentation, in batches of tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from .captions import COLORS, FIRST_LETTER, FIRST_SHAPE, FIRST_TEXTURE, OBJECTS
from .pool import INK, TILE, Pool

SIZE = 32
PALETTE = torch.tensor(list(COLORS.values()), dtype=torch.float32) / 255
WHITE, BLACK = 8, 9


class Composer:
    """Turn rows of (concept, case, color, background) into images with values from 0 to 1."""

    def __init__(
        self, pool: Pool, seed: int, crops: float = 0.0, flips: float = 0.0, coarse: float = 0.3
    ) -> None:
        """`crops`, `flips`, `coarse`: shares of images to crop, mirror and reduce to 8 x 8."""
        self.pool, self.crops, self.flips, self.coarse = pool, crops, flips, coarse
        self.rng = np.random.default_rng([seed, 1])
        self.gen = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Return uniform random numbers."""
        return torch.rand(*shape, generator=self.gen) * (high - low) + low

    def normal(self, *shape: int) -> torch.Tensor:
        """Return normal random numbers."""
        return torch.randn(*shape, generator=self.gen)

    def tiles(self, concepts: np.ndarray, cases: np.ndarray) -> torch.Tensor:
        """Return a random tile of each concept, from 0 to 1."""
        starts, counts = self.pool.starts[concepts, cases], self.pool.counts[concepts, cases]
        picked = starts + (self.rng.random(len(concepts)) * counts).astype(int)
        return torch.from_numpy(self.pool.tiles[picked]).unsqueeze(1).float() / 255

    def grid(self, zoom: torch.Tensor, turn: torch.Tensor, wobble: float) -> torch.Tensor:
        """Return sampling positions: zoom, turn, shear, aspect and a smooth displacement."""
        n = len(zoom)
        cos, sin = torch.cos(turn), torch.sin(turn)
        linear = torch.stack([cos, -sin, sin, cos], dim=1).view(n, 2, 2)
        shear = torch.eye(2).repeat(n, 1, 1)
        shear[:, 0, 1] = self.normal(n) * 0.15
        shear[:, 0, 0] = torch.exp(self.normal(n) * 0.12)
        linear = (linear @ shear) * zoom[:, None, None]
        base = F.affine_grid(torch.eye(2, 3)[None], [1, 1, SIZE, SIZE], align_corners=False)
        warped = base.view(1, -1, 2) @ linear.transpose(1, 2)
        amount = self.uniform(n, 1, 1, 1) * (self.uniform(n, 1, 1, 1) < 0.6) * wobble
        bend = F.interpolate(self.normal(n, 2, 4, 4) * amount, SIZE, mode="bicubic")
        return warped.view(n, SIZE, SIZE, 2) + bend.permute(0, 2, 3, 1)

    def object_masks(self, rows: np.ndarray) -> torch.Tensor:
        """Return glyph and shape masks after the geometric changes and changes of weight."""
        n = len(rows)
        tiles = self.tiles(rows[:, 0], np.maximum(rows[:, 1], 0))
        fill = self.uniform(n, low=0.6, high=1.02)
        cropped = self.uniform(n) < 0.15
        fill = torch.where(cropped, self.uniform(n, low=1.0, high=1.6), fill)
        grid = self.grid(INK / TILE / fill, self.normal(n) * 0.14, 0.14)
        slack = (1 - fill).clamp(min=0) * 0.6 + cropped * 0.35 + 0.04
        grid = grid + (self.uniform(n, 1, 1, 2, low=-1) * slack[:, None, None, None])
        masks = F.grid_sample(tiles, grid, padding_mode="zeros", align_corners=False)
        thick = F.max_pool2d(masks, 3, 1, 1)
        masks = torch.where(self.uniform(n, 1, 1, 1) < 0.2, thick, masks)
        power = torch.exp(self.normal(n, 1, 1, 1) * 0.35)
        return masks.clamp(0, 1) ** power

    def texture_maps(self, concepts: np.ndarray, wobble: float = 0.08) -> torch.Tensor:
        """Return texture tiles after the geometric changes."""
        n = len(concepts)
        tiles = self.tiles(concepts, np.zeros(n, dtype=int))
        grid = self.grid(self.uniform(n, low=0.45, high=1.0), self.normal(n) * 0.2, wobble)
        grid = grid + self.uniform(n, 1, 1, 2, low=-0.2, high=0.2)
        maps = F.grid_sample(tiles, grid, padding_mode="reflection", align_corners=False)
        return maps.clamp(0, 1)

    def shades(self, n: int) -> torch.Tensor:
        """Return colors of any hue or, half of the time, grays."""
        colors = self.uniform(n, 3)
        gray = colors.mean(1, keepdim=True).expand(n, 3)
        return torch.where(self.uniform(n, 1) < 0.5, gray, colors)

    def foreground(self, colors: np.ndarray) -> torch.Tensor:
        """Return the jittered colors of color names."""
        jitter = self.normal(len(colors), 3) * 0.05
        return (PALETTE[torch.from_numpy(colors)] + jitter).clamp(0, 1)

    def contrasting(self, front: torch.Tensor) -> torch.Tensor:
        """Return background colors that differ enough from the given ones."""
        best = self.shades(len(front))
        for _ in range(3):
            distance = (best - front).abs().mean(1, keepdim=True)
            best = torch.where(distance < 0.3, self.shades(len(front)), best)
        light = front.mean(1, keepdim=True) > 0.5
        plain = torch.where(light, 0.0, 1.0).expand_as(front)
        too_close = (best - front).abs().mean(1, keepdim=True) < 0.25
        return torch.where(too_close | (self.uniform(len(front), 1) < 0.4), plain, best)

    def objects(self, rows: np.ndarray) -> torch.Tensor:
        """Return images of glyphs and shapes on their backgrounds."""
        n = len(rows)
        masks, front = self.object_masks(rows), self.foreground(rows[:, 2])
        back = self.contrasting(front)
        second = (back + (self.contrasting(front) - back) * self.uniform(n, 1, high=0.8)).clamp(
            0, 1
        )
        maps = torch.zeros(n, 1, SIZE, SIZE)
        textured = rows[:, 3] >= 0
        if textured.any():
            maps[torch.from_numpy(textured)] = self.texture_maps(rows[textured, 3])
        scene = back[:, :, None, None] * (1 - maps) + second[:, :, None, None] * maps
        return scene * (1 - masks) + front[:, :, None, None] * masks

    def textures(self, rows: np.ndarray) -> torch.Tensor:
        """Return images that are all texture."""
        maps = self.texture_maps(rows[:, 0])
        dark = self.shades(len(rows))
        light = self.contrasting(dark)[:, :, None, None]
        return dark[:, :, None, None] * (1 - maps) + light * maps

    def degrade(self, images: torch.Tensor) -> torch.Tensor:
        """Apply low resolution, blur, contrast, gradient and noise to parts of a batch."""
        n = len(images)
        choice = self.uniform(n)
        high = 0.0
        for size, share in ((8, self.coarse), (10, 0.06), (12, 0.09), (16, 0.15)):
            low, high = high, high + share
            chosen = (choice >= low) & (choice < high)
            if chosen.any():
                small = F.interpolate(images[chosen], size, mode="area")
                small = (small * 16).round() / 16 if size == 8 else small
                images[chosen] = F.interpolate(small, SIZE, mode="bicubic", antialias=True)
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        images = torch.where(self.uniform(n, 1, 1, 1) < 0.15, blurred, images)
        contrast = torch.where(self.uniform(n) < 0.4, self.uniform(n, low=0.5), torch.ones(n))
        offset = self.uniform(n) * (1 - contrast)
        images = images * contrast[:, None, None, None] + offset[:, None, None, None]
        slope = torch.linspace(-1, 1, SIZE).view(1, 1, 1, SIZE) * self.normal(n, 1, 1, 1) * 0.1
        images = torch.where(self.uniform(n, 1, 1, 1) < 0.2, images + slope, images)
        strength = self.uniform(n, 1, 1, 1, high=0.09) * (self.uniform(n, 1, 1, 1) < 0.4)
        return (images + strength * self.normal(*images.shape)).clamp(0, 1)

    def crop(self, images: torch.Tensor) -> torch.Tensor:
        """Enlarge a random part, of 8 % of the area or more, of a share of the images."""
        n = len(images)
        area = self.uniform(n, low=0.08).sqrt()
        stretch = torch.exp(self.uniform(n, low=-0.14, high=0.14))
        size = torch.stack([area * stretch, area / stretch], dim=1).clamp(max=1)
        size = torch.where(self.uniform(n, 1) < self.crops, size, torch.ones_like(size))
        shift = self.uniform(n, 2, low=-1) * (1 - size)
        affine = torch.cat([torch.diag_embed(size), shift[:, :, None]], dim=2)
        grid = F.affine_grid(affine, [n, 1, SIZE, SIZE], align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def mirror(self, images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Mirror a share of the images, but no letters."""
        is_letter = (rows[:, 0] >= FIRST_LETTER) & (rows[:, 0] < FIRST_SHAPE)
        chosen = (self.uniform(len(rows)) < self.flips) & torch.from_numpy(~is_letter)
        return torch.where(chosen[:, None, None, None], images.flip(3), images)

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """Return one image for each row."""
        images = torch.empty(len(rows), 3, SIZE, SIZE)
        is_texture = rows[:, 0] >= FIRST_TEXTURE
        if is_texture.any():
            images[torch.from_numpy(is_texture)] = self.textures(rows[is_texture])
        if not is_texture.all():
            images[torch.from_numpy(~is_texture)] = self.objects(rows[~is_texture])
        images = self.degrade(images)
        if self.flips:
            images = self.mirror(images, rows)
        return self.crop(images) if self.crops else images


def sample_rows(claims: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one image row per caption row; attributes that it does not claim are random."""
    rows = claims.copy()
    n, concepts = len(rows), rows[:, 0]
    is_glyph, is_texture = concepts < FIRST_SHAPE, concepts >= FIRST_TEXTURE
    is_letter = is_glyph & (concepts >= FIRST_LETTER)
    rows[:, 1] = np.where(is_letter & (rows[:, 1] < 0), rng.integers(2, size=n), rows[:, 1])
    plain = np.where(rng.random(n) < 0.7, WHITE, BLACK)
    free = np.where(rng.random(n) < 0.6, plain, rng.integers(len(COLORS), size=n))
    rows[:, 2] = np.where(rows[:, 2] < 0, free, rows[:, 2])
    textured = (rows[:, 3] < 0) & (rng.random(n) < 0.2)
    anything = rng.integers(FIRST_TEXTURE, len(OBJECTS), size=n)
    rows[:, 3] = np.where(textured, anything, rows[:, 3])
    rows[is_texture, 2:] = -1
    return rows
