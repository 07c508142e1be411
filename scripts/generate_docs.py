"""Write the generated pages of docs/reference, the methods in README.md, and CITATION.cff.

The command is `python -m scripts.generate_docs`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fewshot_bench.api.paper import THIS_TOOL
from fewshot_bench.utils.version import __version__
from scripts.markdown import filled
from scripts.method_names import method_names
from scripts.method_pages import built_in_methods, method_page, methods_index
from scripts.reference_pages import (
    api_page,
    commands_page,
    fields_page,
    hooks_page,
    options_page,
    rules_page,
)

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def citation() -> str:
    """CITATION.cff, with the facts of `THIS_TOOL`."""
    authors = "".join(f'  - name: "{name.strip("{}")}"\n' for name in THIS_TOOL.authors)
    return f"""\
cff-version: 1.2.0
title: "{THIS_TOOL.title.replace(f" {__version__}", "")}"
message: "If you use this software, please cite it and what it ran: fsbench compare --format bibtex"
type: software
authors:
{authors}version: {__version__}
license: Apache-2.0
url: "{THIS_TOOL.url}"
repository-code: "{THIS_TOOL.code}"
"""


def pages() -> dict[Path, str]:
    """The text of every page."""
    names = built_in_methods()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    of_methods = {REFERENCE / "methods" / f"{name}.md": method_page(name) for name in names}
    return {
        REFERENCE / "api" / "index.md": api_page(),
        REFERENCE / "commands.md": commands_page(),
        REFERENCE / "options.md": options_page(),
        REFERENCE / "hooks.md": hooks_page(),
        REFERENCE / "fields.md": fields_page(),
        REFERENCE / "rules.md": rules_page(),
        REFERENCE / "methods" / "index.md": methods_index(),
        **of_methods,
        ROOT / "README.md": filled(readme, "methods", method_names(names)),
        ROOT / "CITATION.cff": citation(),
    }


def stale() -> list[str]:
    """Pages that are not current, and pages of methods that are gone, by their paths."""
    current = pages()
    wrong = [p for p, text in current.items() if not p.exists() or p.read_text("utf-8") != text]
    wrong += [path for path in (REFERENCE / "methods").glob("*.md") if path not in current]
    return [path.relative_to(ROOT).as_posix() for path in wrong]


def main() -> None:
    """Write all pages; with --check, exit with an error if one is out of date."""
    if "--check" in sys.argv:
        wrong = stale()
        sys.exit(f"not current: {', '.join(wrong)}" if wrong else 0)
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
