"""Draw gray textures, one function per texture name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SIDE = 40
YY, XX = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
Rng = np.random.Generator


def normalize(values: np.ndarray) -> np.ndarray:
    """Stretch an array to the range 0 to 1."""
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-6)


def rotated(rng: Rng, angle: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates turned by an angle and shifted at random."""
    a = rng.uniform(0, np.pi) if angle is None else angle
    u = XX * np.cos(a) + YY * np.sin(a) + rng.uniform(0, SIDE)
    v = -XX * np.sin(a) + YY * np.cos(a) + rng.uniform(0, SIDE)
    return u, v


def smooth_noise(rng: Rng, cells: int) -> np.ndarray:
    """Return noise that is interpolated smoothly between the cells of a grid."""
    grid = rng.random((cells + 3, cells + 3)).astype(np.float32)
    position = np.arange(SIDE) * cells / SIDE + rng.random()
    index = position.astype(int)
    t = position - index
    t = t * t * (3 - 2 * t)
    rows = grid[index] * (1 - t)[:, None] + grid[index + 1] * t[:, None]
    return rows[:, index] * (1 - t) + rows[:, index + 1] * t


def warp(values: np.ndarray, rng: Rng, amount: float) -> np.ndarray:
    """Return values bent by smooth noise, to be used as coordinates."""
    return values + amount * (smooth_noise(rng, 4) - 0.5)


def seeds(rng: Rng, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Return per pixel the nearest and second nearest distance and owner of random points."""
    count = int(rng.integers(low, high))
    cells = int(np.ceil(np.sqrt(count)))
    base = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2)
    points = (base + rng.random(base.shape)) * SIDE / cells
    distance = np.hypot(XX[..., None] - points[:, 0], YY[..., None] - points[:, 1])
    order = np.argsort(distance, axis=-1)[..., :2]
    return np.take_along_axis(distance, order, -1), order[..., 0]


def edge(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return a soft step from 0 at low to 1 at high."""
    return np.clip((values - low) / (high - low), 0, 1)


def striped(rng: Rng) -> np.ndarray:
    """Return even stripes in any direction."""
    u, _ = rotated(rng)
    return edge(np.sin(2 * np.pi * u / rng.uniform(5, 11)), -0.2, 0.2)


def banded(rng: Rng) -> np.ndarray:
    """Return level bands of uneven height and gray."""
    u, _ = rotated(rng, np.pi / 2 + rng.normal(0, 0.1))
    levels = rng.random(12)
    return levels[(warp(u, rng, 1.5) / rng.uniform(5, 10)).astype(int) % 12]


def lined(rng: Rng) -> np.ndarray:
    """Return thin lines."""
    u, _ = rotated(rng, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05))
    return 1 - edge(np.abs(np.sin(np.pi * u / rng.uniform(4, 7))), 0.1, 0.45)


def zigzagged(rng: Rng) -> np.ndarray:
    """Return zigzag stripes."""
    u, v = rotated(rng, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.1))
    period = rng.uniform(9, 16)
    ridge = np.abs((v / period) % 1 - 0.5) * period
    return edge(np.sin(2 * np.pi * (u + ridge) / rng.uniform(6, 11)), -0.3, 0.3)


def dotted(rng: Rng) -> np.ndarray:
    """Return rows of even dots."""
    period = rng.uniform(6, 12)
    u, v = rotated(rng, rng.choice([0, np.pi / 4]))
    distance = np.hypot((u % period) - period / 2, (v % period) - period / 2)
    return 1 - edge(distance, period * 0.26, period * 0.26 + 1)


def chequered(rng: Rng) -> np.ndarray:
    """Return a chessboard."""
    period = rng.uniform(5, 11)
    u, v = rotated(rng, rng.choice([0, 0, np.pi / 4]) + rng.normal(0, 0.05))
    return ((u // period + v // period) % 2).astype(np.float32)


def grid(rng: Rng) -> np.ndarray:
    """Return a grid of thin lines."""
    period = rng.uniform(6, 12)
    u, v = rotated(rng, rng.normal(0, 0.1))
    width = rng.uniform(1, 2.2)
    return 1 - edge(np.minimum(u % period, v % period), width, width + 0.5)


def crosshatched(rng: Rng) -> np.ndarray:
    """Return two crossing families of slanted thin lines."""
    period, out = rng.uniform(4, 7), np.zeros((SIDE, SIDE), np.float32)
    for angle in (np.pi / 4, -np.pi / 4 + rng.normal(0, 0.2)):
        u, _ = rotated(rng, angle)
        out += 1 - edge(np.abs(np.sin(np.pi * warp(u, rng, 1.0) / period)), 0.1, 0.5)
    return out


def bubbly(rng: Rng) -> np.ndarray:
    """Return round bubbles with a bright rim."""
    out = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(int(rng.integers(8, 22))):
        radius, (x, y) = rng.uniform(2.5, 7), rng.uniform(0, SIDE, 2)
        distance = np.hypot(XX - x, YY - y)
        rim = np.exp(-(((distance - radius) / 0.9) ** 2))
        out = np.maximum(out * (0.5 + 0.5 * (distance > radius)), rim)
    return out


def cracked(rng: Rng) -> np.ndarray:
    """Return dark cracks between flat uneven plates."""
    distance, _ = seeds(rng, 8, 18)
    gap = distance[..., 1] - distance[..., 0]
    return edge(warp(gap, rng, 2.0), 0.4, 1.6) * 0.8 + 0.2 * smooth_noise(rng, 6)


def crystalline(rng: Rng) -> np.ndarray:
    """Return flat facets of many grays with a slope inside each."""
    distance, owner = seeds(rng, 14, 30)
    slopes = rng.normal(0, 0.02, (64, 2))
    shade = rng.random(64)[owner] + slopes[owner, 0] * XX + slopes[owner, 1] * YY
    return shade + 0.3 * (distance[..., 1] - distance[..., 0] < 0.6)


def scaly(rng: Rng) -> np.ndarray:
    """Return rows of overlapping round scales."""
    period = rng.uniform(8, 13)
    u, v = rotated(rng, rng.normal(0, 0.15))
    row = np.floor(v / (period / 2))
    x = (u + row % 2 * period / 2) % period - period / 2
    return np.hypot(x, v - row * period / 2) / period


def honeycombed(rng: Rng) -> np.ndarray:
    """Return hexagonal cells with walls."""
    period = rng.uniform(8, 13)
    u, v = rotated(rng, rng.normal(0, 0.1))
    height = period * np.sqrt(3)
    best = []
    for shift in (0.0, 0.5):
        x = (u / period + shift) % 1 - 0.5
        y = (v / height + shift) % 1 - 0.5
        best.append(np.stack([np.abs(x) * period, np.abs(y) * height]))
    radii = [np.maximum(b[0], b[0] / 2 + b[1] * np.sqrt(3) / 2) for b in best]
    return edge(np.minimum(*radii), period / 2 - 1.5, period / 2 - 0.5)


def cobwebbed(rng: Rng) -> np.ndarray:
    """Return spokes and sagging rings around a center."""
    x, y = rng.uniform(0.2, 0.8, 2) * SIDE
    radius, angle = np.hypot(XX - x, YY - y), np.arctan2(YY - y, XX - x)
    spokes = int(rng.integers(7, 12))
    phase = np.abs(np.sin(angle * spokes / 2 + rng.uniform(0, 3)))
    lines = np.exp(-((phase * radius * 2 / spokes / 0.8) ** 2))
    rings = np.abs(((radius - 1.5 * phase) / rng.uniform(4, 7)) % 1 - 0.5)
    return np.maximum(lines, 1 - edge(rings, 0.06, 0.18))


def woven(rng: Rng) -> np.ndarray:
    """Return an over-and-under weave of flat strips."""
    period = rng.uniform(6, 11)
    u, v = rotated(rng, rng.choice([0, np.pi / 4]) + rng.normal(0, 0.05))
    over = (u // period + v // period) % 2
    across = np.sin(np.pi * (u % period) / period)
    along = np.sin(np.pi * (v % period) / period)
    return np.where(over > 0, 0.35 + 0.65 * across, 0.75 * along)


def braided(rng: Rng) -> np.ndarray:
    """Return columns of slanted strands that meet in a V."""
    period = rng.uniform(10, 16)
    u, v = rotated(rng, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.08))
    x = (u % period) / period - 0.5
    strand = np.sin(2 * np.pi * (v / rng.uniform(6, 9) - np.abs(x) * 1.6))
    return (0.5 + 0.5 * strand) * np.cos(x * np.pi * 0.95)


def blotchy(rng: Rng) -> np.ndarray:
    """Return irregular flat blots."""
    noise = smooth_noise(rng, 5) + 0.5 * smooth_noise(rng, 10)
    return edge(noise, np.median(noise), np.median(noise) + 0.15)


def marbled(rng: Rng) -> np.ndarray:
    """Return bent veins of soft gray."""
    u, _ = rotated(rng)
    bend = smooth_noise(rng, 3) * 14 + smooth_noise(rng, 7) * 6
    return np.abs(np.sin((u * 0.6 + bend) * np.pi / rng.uniform(5, 8))) ** 0.5


def swirly(rng: Rng) -> np.ndarray:
    """Return arms that turn around a center."""
    x, y = rng.uniform(0.35, 0.65, 2) * SIDE
    radius, angle = np.hypot(XX - x, YY - y), np.arctan2(YY - y, XX - x)
    arms, turn = int(rng.integers(2, 5)), rng.choice([-1, 1]) * rng.uniform(0.15, 0.3)
    return 0.5 + 0.5 * np.sin(arms * angle + radius * turn * arms)


def noisy(rng: Rng) -> np.ndarray:
    """Return pixel noise."""
    step = int(rng.integers(1, 4))
    coarse = rng.random((SIDE // step + 1, SIDE // step + 1))
    return np.kron(coarse, np.ones((step, step)))[:SIDE, :SIDE]


def smooth(rng: Rng) -> np.ndarray:
    """Return a gradient."""
    u, v = rotated(rng)
    return u + rng.uniform(-0.5, 0.5) * v + rng.uniform(0, 8) * smooth_noise(rng, 2)


def bumpy(rng: Rng) -> np.ndarray:
    """Return soft bumps lit from one side."""
    cells = int(rng.integers(6, 11))
    height = smooth_noise(rng, cells)
    a = rng.uniform(0, 2 * np.pi)
    dy, dx = np.gradient(height)
    return np.cos(a) * dx + np.sin(a) * dy


def sprinkled(rng: Rng) -> np.ndarray:
    """Return small scattered specks."""
    out = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(int(rng.integers(25, 60))):
        x, y = rng.uniform(0, SIDE, 2)
        blob = 1 - edge(np.hypot(XX - x, YY - y), 0.7, rng.uniform(1.3, 2.2))
        out = np.maximum(out, blob * rng.uniform(0.5, 1))
    return out


def fibrous(rng: Rng) -> np.ndarray:
    """Return fine uneven fibers along one direction."""
    u, v = rotated(rng)
    bend = smooth_noise(rng, 3) * 5
    profile = rng.random(256)
    position = (warp(u, rng, 3.0) + bend) * 1.2
    index = position.astype(int)
    t = position - index
    line = profile[index % 256] * (1 - t) + profile[(index + 1) % 256] * t
    return line + 0.15 * np.sin(v / 5)


TEXTURES: dict[str, Callable[[Rng], np.ndarray]] = {
    function.__name__: function
    for function in (
        *(striped, banded, lined, zigzagged, dotted, chequered, grid, crosshatched, bubbly),
        *(cracked, crystalline, scaly, honeycombed, cobwebbed, woven, braided, blotchy),
        *(marbled, swirly, noisy, smooth, bumpy, sprinkled, fibrous),
    )
}


def draw_texture(name: str, rng: Rng) -> np.ndarray:
    """Draw one texture as uint8 gray, with either polarity."""
    values = normalize(TEXTURES[name](rng))
    if rng.random() < 0.4:
        values = 1 - values
    return (values * 255).astype(np.uint8)
