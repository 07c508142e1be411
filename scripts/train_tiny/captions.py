"""Concept names, synonyms and caption templates, and the matching of captions to images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .shapes import SHAPES
from .textures import TEXTURES

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
OBJECTS = (*DIGITS, *LETTERS, *SHAPES, *TEXTURES)
FIRST_LETTER, FIRST_SHAPE = len(DIGITS), len(DIGITS) + len(LETTERS)
FIRST_TEXTURE = FIRST_SHAPE + len(SHAPES)

SYNONYMS = {
    "circle": ("disc", "disk", "round circle"),
    "cross": ("plus sign", "plus"),
    "ring": ("annulus", "donut"),
    "crescent": ("moon", "crescent moon"),
    "diamond": ("rhombus",),
    "oval": ("ellipse",),
    "lightning bolt": ("lightning", "bolt"),
    "check mark": ("tick", "check"),
    "semicircle": ("half circle",),
    "dotted": ("polka-dotted", "spotted"),
    "chequered": ("checkered", "checkerboard"),
    "cobwebbed": ("cobweb", "spider web"),
    "noisy": ("noise", "grainy"),
    "smooth": ("gradient",),
    "striped": ("stripes",),
    "swirly": ("spiralled", "swirl"),
    "marbled": ("marble", "veined"),
    "woven": ("weave",),
    "braided": ("braid", "knitted"),
    "sprinkled": ("flecked", "freckled"),
    "crystalline": ("crystal", "faceted"),
    "honeycombed": ("honeycomb",),
    "bubbly": ("bubbles",),
    "scaly": ("scales",),
    "zigzagged": ("zigzag", "chevron"),
    "crosshatched": ("cross-hatched",),
    "grid": ("meshed", "waffled"),
    "bumpy": ("rough",),
    "blotchy": ("stained",),
}

COLORS = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (235, 220, 50),
    "green": (50, 165, 60),
    "blue": (45, 85, 215),
    "purple": (130, 55, 170),
    "pink": (240, 140, 185),
    "brown": (125, 80, 45),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
}
COLOR_NAMES = tuple(COLORS)

GENERIC = (
    "a photo of a {}.",
    "a photo of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "{}",
    "{}.",
    "a {}",
    "the {}",
    "an image of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "a sketch of the {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of the {}.",
    "a close-up photo of a {}.",
    "a rendering of the {}.",
    "a cropped photo of a {}.",
)
NUMBER = (
    'a photo of the number: "{}".',
    'a photo of the number: "{}".',
    "a photo of the number {}.",
    "the number {}",
    "a photo of the digit {}.",
    'a photo of the digit: "{}".',
    "the digit {}",
    "a handwritten {}.",
    "a photo of a handwritten digit {}.",
    "a photo of a {}, a type of number.",
)
LETTER = (
    "a photo of the letter {}.",
    "a photo of the letter {}.",
    'a photo of the letter: "{}".',
    "the letter {}",
    "a letter {}",
    "a photo of a handwritten letter {}.",
    "a photo of a {}, a type of letter.",
    "a photo of the {} letter {}.",
    "the {} letter {}",
    "a photo of a {} {}.",
)
SHAPE = ("a photo of a {} shape.", "a {} shape", "a photo of a {}, a type of shape.")
TEXTURE = (
    "{} texture.",
    "{} texture.",
    "a {} texture",
    "a photo of a {} texture.",
    "a photo of a {}, a type of texture.",
    "a {} pattern",
    "a {} surface.",
    "a photo of something {}.",
)
CASES = (("lowercase", "small", "lower case"), ("uppercase", "capital", "upper case"))

# Glyphs that may look the same: a caption of one is not a negative for an image of another.
CONFUSABLE = (("zero", "o"), ("one", "l", "i"), ("circle", "o"), ("ring", "o"), ("ring", "zero"))
SAME_IN_BOTH_CASES = "ciklopsuvwxyz"


@dataclass(frozen=True)
class Caption:
    """A caption and its claims; -1 means no claim."""

    text: str
    concept: int
    case: int = -1
    color: int = -1
    background: int = -1


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Return one of some strings."""
    return options[rng.integers(len(options))]


def name_of(concept: int, rng: np.random.Generator) -> str:
    """Return the name of a concept or, less often, a synonym."""
    name = OBJECTS[concept]
    if concept < FIRST_LETTER:
        return str(concept) if rng.random() < 0.3 else name
    if name in SYNONYMS and rng.random() < 0.3:
        return pick(rng, SYNONYMS[name])
    return name


def make_caption(concept: int, rng: np.random.Generator) -> Caption:
    """Return a random caption of one concept."""
    name, case, color, background = name_of(concept, rng), -1, -1, -1
    special = rng.random() < 0.5
    if concept < FIRST_LETTER:
        template = pick(rng, NUMBER if special else GENERIC)
    elif concept < FIRST_SHAPE:
        template = pick(rng, LETTER if special else GENERIC)
        if template.count("{}") == 2:
            case = int(rng.integers(2))
            return Caption(template.format(pick(rng, CASES[case]), name), concept, case)
    elif concept < FIRST_TEXTURE:
        template = pick(rng, SHAPE if special and rng.random() < 0.5 else GENERIC)
    else:
        return Caption(pick(rng, TEXTURE if special else GENERIC).format(name), concept)
    if rng.random() < 0.2:
        color = int(rng.integers(len(COLORS)))
        name = f"{COLOR_NAMES[color]} {name}"
    text = template.format(name)
    if rng.random() < 0.15 and "," not in template:
        background = int(rng.integers(FIRST_TEXTURE, len(OBJECTS)))
        text = f"{text.rstrip('.')} on a {name_of(background, rng)} background"
    return Caption(text, concept, case, color, background)


def confusable_pairs() -> np.ndarray:
    """Return a boolean matrix of different concepts that may look the same."""
    table = np.zeros((len(OBJECTS), len(OBJECTS)), dtype=bool)
    for group in CONFUSABLE:
        indices = [OBJECTS.index(name) for name in group]
        table[np.ix_(indices, indices)] = True
    np.fill_diagonal(table, False)
    return table


def compare(images: np.ndarray, claims: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masks (images, captions) of the true pairs and of the pairs to leave out.

    Both arguments have the columns concept, case, color and background; -1 means that an image has
    none, or that a caption claims nothing.
    """
    image, claim = images[:, None, :], claims[None, :, :]
    agree = (claim == -1) | (claim == image)
    true = agree.all(-1)
    letters = np.isin(np.array(OBJECTS), list(SAME_IN_BOTH_CASES))
    both_cases = agree[..., [0, 2, 3]].all(-1) & letters[claims[:, 0]][None, :]
    unsure = both_cases | confusable_pairs()[images[:, 0]][:, claims[:, 0]]
    unsure |= (images[:, None, 3] == claims[None, :, 0]) & (images[:, None, 3] >= 0)
    return true, unsure & ~true
