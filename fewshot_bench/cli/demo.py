"""`fsbench demo`: the main job, offline, on the embedded backbone and data sets."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from fewshot_bench.cli.options import store_option
from fewshot_bench.cli.output import say

METHODS = ("zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "coop", "clip-lora")
DATASETS = ("digits", "letters", "shapes")
SHOTS = (1, 4)
# A toy's results stand apart from those of real runs.
STORE = "fsbench-demo"


@click.command("demo", short_help="Try everything offline on the embedded backbone and data sets.")
@store_option(default=STORE)
@click.option("--open", "opens", is_flag=True, help="Open the report in a browser at the end.")
@click.pass_context
def command(ctx: click.Context, store: Path, opens: bool) -> None:
    """Try everything offline on the embedded backbone and data sets.

    Runs six methods at 1 and 4 shots with one seed, all hyper-parameters at their defaults,
    compares them, and writes a report beside the results. Takes about two minutes on two cores.
    """
    from fewshot_bench.api.registry import hosting
    from fewshot_bench.cli import compare
    from fewshot_bench.cli.run import TerminalReporter, run_request
    from fewshot_bench.engines.asking import ask

    asked = {"methods": METHODS, "datasets": DATASETS, "shots": SHOTS, "seeds": (1,)}
    with TerminalReporter("demo") as reporter, hosting():
        code = run_request(ask({**asked, "store": store}), reporter)
    if code:
        ctx.exit(code)
    ctx.invoke(compare.command, store=store, dataset=",".join(DATASETS), shots="1,4", seeds="1")
    # The report is a plug-in, got by name as from the command line.
    report = ctx.find_root().command.get_command(ctx, "report")  # type: ignore[attr-defined]
    path = store.absolute().with_name(f"{store.name}.html")
    ctx.invoke(report, store=store, output=path, title="Six methods on the embedded toy")
    if opens and not webbrowser.open(path.as_uri()):
        say(f"no browser was found: open {path} yourself")
