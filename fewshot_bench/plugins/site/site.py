"""`fsbench site`: pages of printed numbers, and of the results of stores and bundles."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from fewshot_bench.cli.filters import say_damages
from fewshot_bench.cli.options import PATH
from fewshot_bench.cli.output import say, write_text
from fewshot_bench.cli.panels import PanelCommand, option
from fewshot_bench.cli.working import working
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import size_text

ATLAS, RESULTS = "index.html", "results.html"


@click.command(
    "site", cls=PanelCommand, short_help="Write pages of printed numbers and of results."
)
@click.argument("sources", nargs=-1, type=PATH, metavar="[STORE|BUNDLE|reference]...")
@option("-O", "--output", type=PATH, default="site", metavar="DIR", help="Folder (default: site).")
@option("--title", default="Few-shot adaptation of CLIP", metavar="TEXT", help="The heading.")
def command(sources: tuple[Path, ...], output: Path, title: str) -> None:
    """Write pages that open from disk and load nothing from the network.

    index.html is the atlas: all numbers that papers print, with their sources, where papers
    disagree, and what nobody has printed. results.html compares the results of stores and
    bundles: by level (submitted, verified, re-run), conditions and shots, with records, signatures
    and commands; `reference` stands for the results that this project computes again.

    \b
    fsbench site                                   the atlas alone
    fsbench site fsbench-results bundles/*.zip     with these results
    """
    from fewshot_bench.plugins.site.atlas import write_atlas

    with working("site"):
        pages = {ATLAS: write_atlas(title, RESULTS if sources else "")}
        if sources:
            from fewshot_bench.analysis.gathering import gather
            from fewshot_bench.analysis.reference import REFERENCE
            from fewshot_bench.plugins.site.results import with_reference, write_results

            files = [path for path in sources if str(path) != REFERENCE or path.exists()]
            with tempfile.TemporaryDirectory() as folder:
                gathered = gather(files, Path(folder))
                say_damages(gathered.damaged)
                if len(files) < len(sources):
                    gathered = with_reference(gathered)
                pages[RESULTS] = write_results(gathered, title)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make '{output}': {error.strerror}; choose another folder with --output"
        ) from error
    for name, text in pages.items():
        write_text(output / name, text)
        say(f"{output / name}: {size_text(len(text.encode()))}")
