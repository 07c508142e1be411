"""Pages are current, their links lead somewhere, their blocks run, and they are short."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.spec import PRESETS
from fewshot_bench.plugins.reproduce.published import reproductions
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from scripts import generate_docs
from scripts.faces import FACES
from tests.support.docs_blocks import KINDS, blocks_of, commands_in, problem_of, read_page
from tests.support.helpers import PATIENCE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOP = ("README.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
OF_DOCS = sorted(DOCS.rglob("*.md"))
PAGES = [*(ROOT / name for name in TOP), *OF_DOCS]
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
MOST_WORDS = 30_000
MOST_OF_HOW_TO = 600
MOST_TO_FIRST_NUMBER = 500
# Pages whose blocks need a package that the tests do not: `.ci/run` installs it and runs them.
NEEDS = {"docs/how-to/export.md": "onnxscript"}
# Where a tutorial's reader has the first number of their own.
FIRST_NUMBER = re.compile(r"^(?:% first number|<!-- first number -->)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_blocks(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^ *(```+|~~~+)[^\n`]*\n.*?^ *\1 *$", "", read(page), flags=re.M | re.S)


def test_generated_pages_are_current() -> None:
    """Else: python -m scripts.generate_docs."""
    assert generate_docs.stale() == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", without_blocks(page))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", without_blocks(page))
    missing = [
        f"{target}#{heading}"
        for target, heading in links
        if heading not in list_headings(page.parent / target if target else page)
    ]
    assert not missing


def list_headings(page: Path) -> set[str]:
    """The names of a page's headings in links, as hosts of Markdown make them."""
    if not page.exists():
        return set()
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}


@pytest.mark.parametrize("page", OF_DOCS, ids=name_of)
def test_a_page_is_for_both_readers(page: Path) -> None:
    """It starts with its title, and no block escapes the tests."""
    assert read(page).startswith("# ")
    kinds = {block.kind for block in blocks_of(read(page)) if not block.kind.startswith("{")}
    assert kinds <= KINDS


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in OF_DOCS
        if {block.kind for block in blocks_of(read(page))} & {"bash", "python", "console"}
    ],
    ids=name_of,
)
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    if package := NEEDS.get(name_of(page)):
        pytest.importorskip(package)
    read_page(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_prose_have_the_options_named(page: Path) -> None:
    spans = re.findall(r"`(fsbench [^`]+)`", without_blocks(page).replace("\n", " "))
    wrong = {
        span: problem
        for span in spans
        for words in commands_in(span)
        if (problem := problem_of(words, whole=False))
    }
    assert not wrong


def test_published_tables_in_commands_exist() -> None:
    named = {n for p in PAGES for n in re.findall(r"fsbench reproduce ([a-z0-9][\w-]+)", read(p))}
    assert len(named) > 10
    assert named <= {*reproductions()}


def test_docs_are_short() -> None:
    generated = generate_docs.pages()
    written = {page: len(read(page).split()) for page in OF_DOCS if page not in generated}
    assert sum(written.values()) <= MOST_WORDS, written
    assert not {name_of(page) for page in HOW_TO if written[page] > MOST_OF_HOW_TO}


@pytest.mark.parametrize("page", TUTORIALS, ids=name_of)
def test_a_first_number_is_near(page: Path) -> None:
    before, *after = FIRST_NUMBER.split(read(page))
    assert len(after) == 1
    assert len(before.split()) <= MOST_TO_FIRST_NUMBER


@pytest.mark.parametrize(("name", "most"), [("own-method", 900), ("own-photographs", 600)])
def test_a_newcomer_reads_little(name: str, most: int) -> None:
    """From the start page to the first number of their own."""
    before, _ = FIRST_NUMBER.split(read(DOCS / "tutorials" / f"{name}.md"))
    assert f"(tutorials/{name}.md)" in read(DOCS / "index.md")
    assert len(read(DOCS / "index.md").split()) + len(before.split()) <= most


def test_pictures_are_told_and_none_is_left_over() -> None:
    text = "".join(map(read, OF_DOCS))
    found = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)
    assert [target for told, target in found if len(told.split()) < 3] == []
    others = re.findall(r'(?:src|srcset)="([^"]+)"', read(ROOT / "README.md"))
    shown = {Path(target).name for target in (*others, *(target for _, target in found))}
    pictures = {path.name for path in (DOCS / "pictures").iterdir() if path.suffix != ".json"}
    assert pictures <= shown


class Links(HTMLParser):
    """What a page of the built docs links to, and the places in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = {""}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found.get("id") or "", found.get("name") or ""}
        self.targets |= {found.get(name) or "" for name in ("href", "src")}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built docs: those of FSBENCH_BUILT_DOCS, which are of this checkout, or else new ones."""
    if told := os.environ.get("FSBENCH_BUILT_DOCS"):
        return Path(told)
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(folder / "read"), str(DOCS), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_built_docs_link_to_what_is_there(built: Path) -> None:
    pages = {}
    for path in built.rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(read(path))
    assert len(pages) > 250
    wrong = []
    for path, page in pages.items():
        for target in page.targets:
            file, _, place = target.partition("#")
            if re.match(r"https?://[\w.-]+(?:[/?#]|$)|mailto:|data:", target):
                continue
            # A query names the version of a file.
            found = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not found.exists() or (found in pages and unquote(place) not in pages[found].ids):
                wrong.append(f"{path.relative_to(built)}: {target}")
    assert wrong == []


@pytest.mark.slow
def test_every_public_name_has_a_page(built: Path) -> None:
    names = {face: importlib.import_module(face).__all__ for face in FACES}
    missing = [
        f"{face}.{name}"
        for face in FACES
        for name in names[face]
        if name != "__version__"
        and f'id="{face}.{name}"' not in read(built / "reference/api" / face / f"{name}.html")
    ]
    assert missing == []
    assert read(built / "genindex.html").count("fewshot_bench") > 100


def test_no_example_runs_all_methods() -> None:
    """That is a thousand cells: examples name methods or a suite, or add --dry-run."""
    texts = [*PAGES, *(ROOT / "fewshot_bench").rglob("*.py")]
    found = [
        line
        for path in texts
        for line in read(path).splitlines()
        if re.search(r"fsbench .*run .*(-m|--method)[ =]all\b", line) and "--dry-run" not in line
    ]
    assert found == []


def test_what_is_declared_by_name_is_explained() -> None:
    page = read(DOCS / "reference" / "protocols.md")
    for name in (*SAMPLERS, *VALIDATION, *TEMPLATE_SETS, *PRESETS):
        assert f"`{name}`" in page


def test_metrics_are_defined_for_readers() -> None:
    page = read(DOCS / "reference" / "records.md")
    assert all(f"| `{name}` |" in page for name in METRICS)


def test_the_architecture_page_names_files_that_are_there() -> None:
    page = read(DOCS / "explanation" / "architecture.md")
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|toml))`", page))
    folders = (ROOT, ROOT / "fewshot_bench", *(ROOT / "datasets").glob("*"))
    folders += tuple((ROOT / "methods").glob("*"))
    assert len(named) > 30
    assert not {name for name in named if not any((f / name).exists() for f in folders)}


def test_the_page_on_python_names_every_argument_and_column() -> None:
    import inspect

    import fewshot_bench as fb
    from fewshot_bench.analysis.results import HEADS

    page = read(DOCS / "reference" / "python.md")
    arguments = [*inspect.signature(fb.run).parameters]
    for name in [*arguments[:-1], *inspect.signature(fb.Results.compare).parameters][1:]:
        assert f"`{name}" in page or name == "self", name
    conditions = page.partition("`where` takes")[2]
    for name in HEADS:
        assert f"`{name}" in page or f"`{name}`" in conditions or name in UNNAMED, name


# Columns that the page calls "the conditions" and "every metric", or that it needs not name.
UNNAMED = {"val", "picks", *METRICS}
