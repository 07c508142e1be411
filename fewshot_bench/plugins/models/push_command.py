"""`fsbench push`: a kept model on a hub, for others to load by its name and commit."""

from __future__ import annotations

import click

from fewshot_bench.cli.output import say, warn
from fewshot_bench.cli.working import working


@click.command("push", short_help="Put a kept model on a hub.")
@click.argument("model", metavar="MODEL")
@click.argument("destination", metavar="hub:USER/NAME")
@click.option("--private", is_flag=True, help="Let only those with access see it.")
@click.option(
    "--revision",
    default="",
    metavar="BRANCH",
    help="Write to this branch, which is made if need be; without it, to the main one.",
)
def command(model: str, destination: str, private: bool, revision: str) -> None:
    """Put the model in the folder MODEL on a hub, as one commit.

    The files are checked first, and a model card (README.md) has to be there. The repository is
    made if need be. The hub is the one of HF_ENDPOINT, the token that of `hf auth login` or
    HF_TOKEN. Whatever takes a model takes the name that is printed.
    """
    from fewshot_bench.store.hub import model_folder, push

    with working("push"):
        name = push(model_folder(model, warn), destination, private=private, branch=revision)
    say(str(name))
