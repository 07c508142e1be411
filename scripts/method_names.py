"""The methods by family, each a link to its page in the docs, for README.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from scripts.method_pages import card_named

PAGES = "https://github.com/fewshot-bench/fewshot_bench/blob/main/docs/reference/methods/"


def method_names(names: Iterable[str]) -> str:
    """One line of Markdown per family, in the order of their first methods."""
    families = defaultdict(list)
    for name in names:
        families[card_named(name).family].append(f"[{name}]({PAGES}{name}.md)")
    return "".join(f"- {family}: {', '.join(links)}\n" for family, links in families.items())
