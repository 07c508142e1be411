"""The methods by family, each a link to its section of docs/methods.md, for README.md."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry

PAGE = "https://github.com/fewshot-bench/fewshot_bench/blob/main/docs/methods.md"
BEGIN, END = "<!-- methods -->\n", "<!-- end of methods -->\n"


def with_method_names(readme: str, names: Iterable[str]) -> str:
    """The README with its list of methods written anew; ValueError without both marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected {BEGIN.strip()} and {END.strip()}")
    return before + begin + method_names(names) + end + after


def method_names(names: Iterable[str]) -> str:
    """One line of Markdown per family, in the order of their first methods."""
    families = defaultdict(list)
    for name in names:
        card = card_of(registry().method_class(name))
        families[card.family if card else ""].append(f"[{name}]({PAGE}#{anchor(name)})")
    return "".join(f"- {family}: {', '.join(links)}\n" for family, links in families.items())


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
