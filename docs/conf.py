"""The build of the docs: `python -m sphinx -W -b html docs build/docs`.

The map of all pages is `PARTS`: hidden tables of contents are appended to the pages that have them,
so that their Markdown reads well where nothing is built. Pages of the Python API are written before
each build, one per public name.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent)]

from fewshot_bench.utils.version import __version__  # noqa: E402
from scripts.atlas.page import write_atlas  # noqa: E402
from scripts.faces import FACES  # noqa: E402

project = "fewshot_bench"
author = copyright = "fewshot_bench contributors"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["gallery/*"]
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
# Commands and options are read as they are typed.
smartquotes = False
myst_heading_anchors = 4
# Pages are linked to files of the repository, too: they lead to its host.
REPOSITORY = "https://github.com/fewshot-bench/fewshot_bench/blob/main/"

html_theme = "furo"
html_title = "fewshot_bench"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_copy_source = False
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80

PARTS = {
    "Tutorials": "tutorials: first-run own-method own-photographs paper cluster gpu",
    "Notebooks": "notebooks: first-run own-method own-photographs",
    "How to compare": (
        "how-to: compare figures-and-tables sweep reproduce repeat-a-cell report base-to-new "
        "queries-views-texts audit"
    ),
    "How to bring data, keep models": (
        "how-to: get-data verify-data own-data splits adapt kept-models export hub app"
    ),
    "How to run": "how-to: plan-a-run devices slurm-and-ray stores trackers shell",
    "How to extend": (
        "how-to: train-a-method change-the-towers adapters-and-views debug-a-method own-dataset "
        "own-backbone own-metric own-engine"
    ),
    "Reference": (
        "reference: commands options environment records fields methods/index python api/index "
        "method-contract rules hooks protocols datasets backbones formats glossary"
    ),
    "Explanation": (
        "explanation: protocols statistics fairness accounting security architecture performance"
    ),
    "More": ": faq gallery",
}


def api_pages() -> dict[str, str]:
    """Path below reference/api/ and reStructuredText of the page of every public name."""
    pages = {}
    for face in FACES:
        names = [name for name in importlib.import_module(face).__all__ if name != "__version__"]
        pages[f"{face}.rst"] = _page_of_face(face, names)
        for name in names:
            pages[f"{face}/{name}.rst"] = _page_of_name(face, name)
    return pages


def _page_of_face(face: str, names: list[str]) -> str:
    module = importlib.import_module(face)
    entries = "".join(f"- :doc:`{name} <{face}/{name}>`{_about(module, name)}\n" for name in names)
    return f"{face}\n{'=' * len(face)}\n\n.. automodule:: {face}\n   :no-members:\n\n{entries}"


def _about(module: ModuleType, name: str) -> str:
    """The first sentence on a class or function."""
    value = getattr(module, name)
    if not (isinstance(value, type) or callable(value)):
        return ""
    first = inspect.cleandoc(value.__doc__ or "").partition("\n")[0]
    return f": {_literals(first)}" if first else ""


def _page_of_name(face: str, name: str) -> str:
    value = getattr(importlib.import_module(face), name)
    if isinstance(value, type):
        directive = f".. autoclass:: {face}.{name}\n   :members:\n"
    elif callable(value):
        directive = f".. autofunction:: {face}.{name}\n"
    else:
        directive = f".. autodata:: {face}.{name}\n"
    # Their lists lead to them: in the navigation of every page, they would outnumber all others.
    return f":orphan:\n\n{name}\n{'=' * len(name)}\n\n{directive}"


def write_api(app: Sphinx) -> None:
    """Write the pages of the Python API; none stays of a name that is gone."""
    folder = DOCS / "reference" / "api"
    pages = {folder / path: text for path, text in api_pages().items()}
    for path in [*folder.rglob("*.rst")]:
        if path not in pages:
            path.unlink()
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        if path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the hidden tables of contents of a page; lead links out of docs/ to the repository."""
    if page == "index":
        source[0] += "".join(_contents(*entry) for entry in PARTS.items())
    elif page == "reference/methods/index":
        names = sorted(path.stem for path in (DOCS / "reference" / "methods").glob("*.md"))
        source[0] += _contents("", f": {' '.join(name for name in names if name != 'index')}")
    elif page == "reference/api/index":
        source[0] += _contents("", f": {' '.join(FACES)}", hidden=False)
    if not page.startswith("reference/api/fewshot_bench"):
        source[0] = re.sub(r"(\]\()(?:\.\./)+([^)]+\))", _out_of_docs(page), source[0])


def _contents(caption: str, entries: str, *, hidden: bool = True) -> str:
    folder, _, names = entries.partition(": ")
    pages = "\n".join(f"{folder}/{name}" if folder else name for name in names.split())
    options = (":hidden:\n" if hidden else "") + (f":caption: {caption}\n" if caption else "")
    return f"\n\n```{{toctree}}\n{options}\n{pages}\n```\n"


def _out_of_docs(page: str) -> Callable[[re.Match[str]], str]:
    def lead(match: re.Match[str]) -> str:
        path, up = match[0][2:-1], page.count("/") + 1
        if path.startswith("../" * up):
            return f"]({REPOSITORY}{path[3 * up :]})"
        return match[0]

    return lead


# Names at the start of a line or sentence that a docstring explains: `features, labels: tensors`.
ARGUMENTS = re.compile(r"(?:^|(?<=[.;)] ))([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


def render_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Make reStructuredText of a docstring in plain words.

    Single backticks are code, as in Markdown; paragraphs that explain arguments become lists.
    """
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip())
    lines[:] = "\n\n".join(_render(block) for block in blocks).split("\n") + [""]


def _render(block: str) -> str:
    if block.startswith((">>>", "    ", "- ")):
        return _literals(block) if block.startswith("- ") else f"::\n\n{_indented(block)}"
    text = " ".join(line.strip() for line in block.split("\n"))
    before, *parts = ARGUMENTS.split(text)
    if not parts or before:
        return _literals(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return "\n".join(f"- **{names}**: {_literals(told.strip())}" for names, told in pairs)


def _indented(block: str) -> str:
    return "\n".join(f"   {line}" for line in block.split("\n"))


def _literals(text: str) -> str:
    """Text with `code` as literals; all other marks of reStructuredText are escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([*|_`\\])", r"\\\1", text)
    outside = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
    inside = [f"``{part}``\\ " if part.strip() else part for part in parts[1::2]]
    return "".join(a + b for a, b in zip(outside, [*inside, ""], strict=True))


# What the theme leaves out for readers who hear pages or have only keys.
MENDED = {
    r'<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    r'<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    r'<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    r'<th class="head"><p></p></th>': "<td></td>",
    r"<pre(?: id=\"\w+\")?>": '<pre tabindex="0">',
    r'<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    # Arguments that stand on lines of their own.
    r"<dl>\n((?:<dd>.*?</dd>\n)+)</dl>": r'<span class="arguments">\1</span>',
    r"<dd>(<em class=\"sig-param\">.*?)</dd>": r"<span>\1</span>",
}


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    """Rewrite what the theme writes into every page."""
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for pattern, better in MENDED.items():
            text = re.sub(pattern, better, text)
        path.write_text(text, encoding="utf-8")


def add_atlas(app: Sphinx, error: Exception | None) -> None:
    """Write the atlas of printed numbers beside the pages."""
    (Path(app.outdir) / "atlas.html").write_text(write_atlas(), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what happens before, during and after a build."""
    app.connect("builder-inited", write_api)
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", render_docstring)
    app.connect("build-finished", mend_pages)
    app.connect("build-finished", add_atlas)
