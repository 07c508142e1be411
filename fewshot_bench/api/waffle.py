"""Random texts for classes, equal for all of them: the control for any claim of knowledge.

WaffleCLIP (Roth et al., ICCV 2023): "A photo of a {name}, which has {noise}.", where noise is
random words and random characters, as long as the class names are on average. Texts with knowledge
about classes that score no better than these show the effect of many texts, and none of knowledge.
The words are our own list; the official code has another one, and takes its characters from the
texts of a language model. Of its texts, 2 to 4 % say "which is {noise}", where the noise begins
with "a" or "used", and a few "which {noise}".
"""

from __future__ import annotations

import functools
import math
import random
import string
from collections.abc import Sequence
from importlib import resources
from statistics import fmean

PAIRS = 15
FORM = "A photo of a {}, which has {}."


@functools.cache
def read_words() -> tuple[str, ...]:
    """The words, sorted."""
    file = resources.files("fewshot_bench.api").joinpath("waffle_words.txt")
    return tuple(file.read_text(encoding="utf-8").split())


def draw_noise(classnames: Sequence[str], seed: int) -> list[str]:
    """`PAIRS` pairs of random words and of random characters, one after the other.

    There are as many words as in the mean class name, cut to its mean length of a word, and as many
    groups of characters, which together are a little longer than a mean name's longest word
    (waffle_tools.py, mode `waffle`). The same in all versions of Python.
    """
    rng = random.Random(f"waffle {seed}")
    lengths = [[len(word) for word in name.replace("_", " ").split()] or [0] for name in classnames]
    count = max(1, round(fmean(map(len, lengths))))
    length = max(1, round(fmean(map(fmean, lengths))))
    each = math.ceil(fmean(map(max, lengths))) // count + 1

    def pick(of: Sequence[str], times: int) -> list[str]:
        # Of the functions of `random`, this one alone is the same in all versions.
        return [of[int(rng.random() * len(of))] for _ in range(times)]

    noise = []
    for _ in range(PAIRS):
        noise.append(" ".join(word[:length] for word in pick(read_words(), count)))
        letters = ("".join(pick(string.ascii_letters + string.digits, each)) for _ in range(count))
        noise.append(", ".join(letters))
    return noise


def describe(classname: str, noise: Sequence[str]) -> tuple[str, ...]:
    """The texts of a class."""
    return tuple(FORM.format(classname.replace("_", " "), text) for text in noise)
