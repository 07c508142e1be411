"""Draw the pictures of README.md anew: `python -m scripts.make_pictures [--store DEMO]`.

They are what the printed numbers say (`fsbench printed --figure`), the report of the demo in a
headless Chromium, and its table in a terminal. `docs/pictures/made-of.json` has the digests of the
files that decide how they look, so that a test says when they are stale. Without --store, the demo
is run first, which takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MADE_OF = PICTURES / "made-of.json"
# What decides how a picture looks, beside the numbers.
SOURCES = {
    "report": (
        "plugins/report/page/base.html",
        "plugins/report/page/block.html",
        "plugins/report/page/macros.html",
        "plugins/report/page/report.html",
        "plugins/report/page/s*",
        "plugins/report/figures/*.py",
        "analysis/figures/costs.py",
        "analysis/figures/labels.py",
    ),
    "table": ("analysis/formats/terminal.py",),
}
PRINTED = ("-d", "average", "--shots", "16", "--backbone", "ViT-B-16", "--classes", "all")
SIZE = {"width": 1240, "height": 800}
COLUMNS = 100


def digests() -> dict[str, str]:
    """The digest of the sources of each picture."""
    parts = {}
    for name, patterns in SOURCES.items():
        paths = [p for pattern in patterns for p in (ROOT / "fewshot_bench").glob(pattern)]
        texts = [path.read_bytes() for path in sorted(paths) if path.is_file()]
        parts[name] = hashlib.sha256(b"".join(texts)).hexdigest()[:16]
    return parts


def main() -> None:
    """Write all pictures and their digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="store of a finished demo")
    store = parser.parse_args().store
    with tempfile.TemporaryDirectory() as folder:
        if store is None:
            store = Path(folder) / "fsbench-demo"
            fsbench("demo", "--store", str(store))
        PICTURES.mkdir(exist_ok=True)
        for shade, flags in {"light": (), "dark": ("--dark",)}.items():
            figure = str(PICTURES / f"printed-{shade}.svg")
            fsbench("printed", *PRINTED, "--figure", figure, *flags)
        page = Path(folder) / "report.html"
        title = "Six methods on the embedded toy"
        fsbench("report", "--store", str(store), "--title", title, "--output", str(page))
        photograph(page)
        draw_table(fsbench("compare", "--store", str(store), "--seeds", "1"))
    MADE_OF.write_text(json.dumps(digests(), indent=2) + "\n", encoding="utf-8")


def fsbench(*words: str) -> str:
    """The output of a command, in a terminal of COLUMNS columns; its faults end this one."""
    command = [sys.executable, "-m", "fewshot_bench", *words]
    environment = {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    return done.stdout


def photograph(page: Path) -> None:
    """The first screen of a page, light and dark."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport=SIZE, color_scheme=scheme)
            tab.goto(page.absolute().as_uri())
            tab.screenshot(path=PICTURES / f"report-{scheme}.png")
        browser.close()


def draw_table(output: str) -> None:
    """What a terminal shows, as SVG without a font from the network."""
    import io

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="fsbench compare", unique_id="table")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (PICTURES / "table.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
