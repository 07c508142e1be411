"""Draw filled, outlined and hand-drawn shapes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "arrow",
    "crescent",
    "diamond",
    "hexagon",
    "pentagon",
    "rectangle",
    "oval",
    "semicircle",
    "lightning bolt",
    "check mark",
    "spiral",
)
SIDE = 160


def regular(sides: int, phase: float = -np.pi / 2) -> np.ndarray:
    """Return the corners of a regular polygon of radius one."""
    angles = phase + 2 * np.pi * np.arange(sides) / sides
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def star(rng: np.random.Generator) -> np.ndarray:
    """Return a five- or six-pointed star."""
    points = 5 if rng.random() < 0.75 else 6
    corners = regular(2 * points)
    corners[1::2] *= rng.uniform(0.36, 0.55)
    return corners


def cross(rng: np.random.Generator) -> np.ndarray:
    """Return the outline of a plus sign."""
    a = rng.uniform(0.15, 0.38)
    quarter = [(a, -1), (a, -a), (1, -a)]
    turned = []
    for _ in range(4):
        turned += quarter
        quarter = [(-y, x) for x, y in quarter]
    return np.array(turned)


def heart() -> np.ndarray:
    """Return a heart."""
    t = np.linspace(0, 2 * np.pi, 60)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -y / 16], axis=1)


def crescent(rng: np.random.Generator) -> np.ndarray:
    """Return a crescent moon open to the right."""
    half, depth = rng.uniform(1.9, 2.4), rng.uniform(0.2, 0.6)
    t = np.linspace(-half, half, 30)
    outer = np.stack([-np.cos(t), np.sin(t)], axis=1)
    tip_x, tip_y = -np.cos(half), np.sin(half)
    u = np.linspace(1, -1, 30)
    inner = np.stack([tip_x - (tip_x + depth) * (1 - u**2), u * tip_y], axis=1)
    return np.concatenate([outer, inner])


def arrow(rng: np.random.Generator) -> np.ndarray:
    """Return an arrow that points to the right."""
    body, neck, head = rng.uniform(0.12, 0.35), rng.uniform(-0.1, 0.4), rng.uniform(0.6, 0.95)
    upper = [(-1, -body), (neck, -body), (neck, -head), (1, 0)]
    return np.array(upper + [(x, -y) for x, y in reversed(upper[:-1])])


def outline(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return the corner points of a closed shape in the square from -1 to 1."""
    if name in ("circle", "ring", "oval"):
        return regular(48) * (1, rng.uniform(0.4, 0.68) if name == "oval" else 1)
    if name == "semicircle":
        t = np.linspace(0, np.pi, 30)
        return np.stack([np.cos(t), 0.5 - np.sin(t)], axis=1)
    if name == "rectangle":
        return regular(4, np.pi / 4) * (1.3, rng.uniform(0.4, 0.8))
    if name == "diamond":
        return regular(4) * (rng.uniform(0.55, 0.9), 1)
    if name == "lightning bolt":
        bolt = [(0.2, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.05, -0.25)]
        return np.array(bolt)
    makers = {"star": star, "cross": cross, "crescent": crescent, "arrow": arrow}
    if name in makers:
        return makers[name](rng)
    if name == "heart":
        return heart()
    sides = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}[name]
    return regular(sides, np.pi / 4 if sides == 4 else -np.pi / 2)


def open_path(name: str, rng: np.random.Generator) -> np.ndarray | None:
    """Return the points of a shape that is a line and not an area, else None."""
    if name == "check mark":
        return np.array([(-0.9, 0.1), (-0.3, rng.uniform(0.6, 0.9)), (0.9, -0.8)])
    if name == "spiral":
        t = np.linspace(0.3, rng.uniform(1.7, 2.8) * 2 * np.pi, 120)
        return np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / t[-1]
    return None


def spin(name: str, rng: np.random.Generator) -> float:
    """Return a random turn that does not change what the shape is."""
    if name in ("star", "arrow", "crescent", "spiral"):
        return rng.uniform(0, 2 * np.pi)
    if name == "semicircle":
        return rng.integers(4) * np.pi / 2 + rng.normal(0, 0.15)
    if name == "triangle" and rng.random() < 0.2:
        return np.pi
    return rng.normal(0, 0.12)


def draw_shape(name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one shape white on black, cropped to its ink."""
    path = open_path(name, rng)
    points = outline(name, rng) if path is None else path
    jitter = rng.choice([0, 0, 0.02, 0.05]) if len(points) < 20 else 0
    points = points + rng.normal(0, 1, points.shape) * jitter
    angle = spin(name, rng)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points * rng.uniform(0.88, 1.0, 2) @ turn.T
    points = [tuple(point) for point in points * 52 + SIDE / 2]
    image = Image.new("L", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(image)
    width = int(rng.uniform(7, 20))
    hollow = name not in ("circle", "oval") and rng.random() < 0.3
    if path is not None:
        thin = width if name == "check mark" else min(width, 9)
        draw.line(points, fill=255, width=thin, joint="curve")
    elif name == "ring":
        draw.polygon(points, fill=255)
        inner = rng.uniform(0.4, 0.8)
        center = SIDE / 2
        hole = [(center + (x - center) * inner, center + (y - center) * inner) for x, y in points]
        draw.polygon(hole, fill=0)
    elif hollow:
        draw.line([*points, *points[:2]], fill=255, width=width // 2, joint="curve")
    else:
        draw.polygon(points, fill=255)
    return np.asarray(image.crop(image.getbbox()))
