"""Draw the pictures of README.md and the docs anew: `python -m scripts.make_pictures [NAME ...]`.

Without names, all of `DRAWN`. Pages are photographed in a headless Chromium.
`docs/pictures/made-of.json` has the digests of the files that decide how pictures look, so that a
test says when they are stale. The stores behind them are made first, which takes minutes;
--work keeps them for the next time.
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
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from scripts.atlas.page import write_atlas

Scheme = Literal["light", "dark"]
ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
REPORT = ROOT / "docs" / "gallery" / "report.html"
MADE_OF = PICTURES / "made-of.json"
PAGE = "plugins/report/page"
# What decides how a picture looks, beside the numbers.
SOURCES = {
    "report": (
        f"{PAGE}/base.html",
        f"{PAGE}/block.html",
        f"{PAGE}/macros.html",
        f"{PAGE}/report.html",
        f"{PAGE}/s*",
        "plugins/report/figures/*.py",
        "analysis/figures/costs.py",
        "analysis/figures/labels.py",
    ),
    "table": ("analysis/formats/terminal.py",),
    "figures": ("analysis/figures/*.py",),
    "look": (f"{PAGE}/base.html", f"{PAGE}/s*", f"{PAGE}/sheet.html"),
    "adapt": (f"{PAGE}/base.html", f"{PAGE}/s*", f"{PAGE}/learned.html"),
}
PRINTED = ("-d", "average", "--shots", "16", "--backbone", "ViT-B-16", "--classes", "all")
SETS = "digits,letters,shapes"
HALVES = "zero-shot,coop[epochs=20],clip-lora[iterations=50]"
RENAMED = ("--rename", "coop[epochs=20]=CoOp", "--rename", "clip-lora[iterations=50]=CLIP-LoRA")
ABLATION = ("-m", "tip-adapter", "-o", "init_alpha=0.5,1,2,4,8", "-o", "init_beta=0.5,1,2,4,8")
COLUMNS = 100


def draw_printed(work: Path) -> None:
    """What papers print, light and dark."""
    for shade, flags in {"light": (), "dark": ("--dark",)}.items():
        fsbench("printed", *PRINTED, "--figure", picture(f"printed-{shade}.svg"), *flags)


def draw_report(work: Path) -> None:
    """The report of the demo, as pictures, and with three seeds as a page."""
    title = "Six methods on the embedded toy"
    page = str(work / "report.html")
    store = demo(work)
    fsbench("report", "--store", store, "--seeds", "1", "--title", title, "--output", page)
    schemes: tuple[Scheme, ...] = ("light", "dark")
    for scheme in schemes:
        photograph(page, f"report-{scheme}.png", scheme)
    REPORT.parent.mkdir(exist_ok=True)
    fsbench("report", "--store", store, "--title", title, "--output", str(REPORT))


def draw_table(work: Path) -> None:
    """What a terminal shows, as SVG without a font from the network."""
    import io

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(fsbench("compare", "--store", demo(work), "--seeds", "1")))
    svg = console.export_svg(title="fsbench compare", unique_id="table")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (PICTURES / "table.svg").write_text(svg, encoding="utf-8")


def draw_figures(work: Path) -> None:
    """All kinds of figures."""
    store, halves, ablation = demo(work), str(work / "halves"), str(work / "ablation")
    few = ("-d", SETS, "--shots", "4", "--seeds", "1")
    fsbench("run", "-m", HALVES, *few, "--classes", "base,new", "--store", halves)
    fsbench("run", *ABLATION, *few, "--val", "none", "--store", ablation)
    draw = ("figure", "--store")
    fsbench(*draw, store, "shots", "--ours", "clip-lora", "-O", picture("shots.svg"))
    fsbench(*draw, store, "cost", "--shots", "4", "-O", picture("cost.svg"))
    fsbench(*draw, halves, "base-new", *RENAMED, "-O", picture("base-new.svg"))
    small = ("--size", "3.25x2.6")
    fsbench(*draw, ablation, "ablation", *ABLATION, *small, "-O", picture("ablation.svg"))
    chosen = ("-m", "coop,clip-lora", "-d", "digits", "--shots", "4", "--seeds", "1")
    size = ("--series", "loss", "--size", "6x2.5")
    fsbench("curves", "--store", store, *chosen, *size, "-O", picture("curves.svg"))


def draw_look(work: Path) -> None:
    """The sheet of an embedded data set."""
    page = str(work / "look.html")
    fsbench("look", "shapes", "--sheet", page)
    photograph(page, "look.png")


def draw_adapt(work: Path) -> None:
    """The report of a model."""
    model = str(work / "model")
    what = ("-d", "shapes", "--shots", "16", "--backbone", "tiny", "--method", "lp++")
    fsbench("adapt", *what, "-O", model, "--force")
    photograph(f"{model}/report.html", "adapt.png")


def draw_atlas(work: Path) -> None:
    """The atlas of printed numbers."""
    (work / "atlas.html").write_text(write_atlas(), encoding="utf-8")
    photograph(str(work / "atlas.html"), "atlas.png")


DRAWN: dict[str, Callable[[Path], None]] = {
    "printed": draw_printed,
    "report": draw_report,
    "table": draw_table,
    "figures": draw_figures,
    "look": draw_look,
    "adapt": draw_adapt,
    "atlas": draw_atlas,
}


def digests() -> dict[str, str]:
    """The digest of the sources of each picture."""
    parts = {}
    for name, patterns in SOURCES.items():
        paths = [p for pattern in patterns for p in (ROOT / "fewshot_bench").glob(pattern)]
        texts = [path.read_bytes() for path in sorted(paths) if path.is_file()]
        parts[name] = hashlib.sha256(b"".join(texts)).hexdigest()[:16]
    return parts


def main() -> None:
    """Draw what is named, and write its digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRAWN))
    parser.add_argument("--work", type=Path, help="folder of stores, kept for the next time")
    asked = parser.parse_args()
    if unknown := {*asked.names} - {*DRAWN}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(DRAWN)}")
    names = asked.names or list(DRAWN)
    made_of = json.loads(MADE_OF.read_text(encoding="utf-8")) if MADE_OF.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name in names:
            DRAWN[name](work)
            made_of |= {key: digest for key, digest in digests().items() if key == name}
    MADE_OF.write_text(json.dumps(made_of, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def demo(work: Path) -> str:
    """The store of the demo, with three seeds."""
    from fewshot_bench.cli.demo import METHODS

    store = str(work / "fsbench-demo")
    fsbench("demo", "--store", store)
    few = ("-d", SETS, "--shots", "1,4", "--seeds", "1,2,3")
    fsbench("run", "-m", ",".join(METHODS), *few, "--store", store)
    return store


def fsbench(*words: str) -> str:
    """The output of a command, in a terminal of COLUMNS columns; its faults end this one."""
    command = [sys.executable, "-m", "fewshot_bench", *words]
    environment = {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    return done.stdout


def picture(name: str) -> str:
    """The path of a picture of the docs."""
    return str(PICTURES / name)


def photograph(page: str, name: str, scheme: Scheme = "light") -> None:
    """The first screen of a page, as a picture of few colors."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1240, "height": 800}, color_scheme=scheme)
        tab.goto(Path(page).absolute().as_uri())
        tab.screenshot(path=picture(name))
        browser.close()
    with Image.open(picture(name)) as image:
        image.convert("RGB").quantize(128).save(picture(name), optimize=True)


if __name__ == "__main__":
    main()
