"""The commands that use kept models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.api.plugins import hookimpl

if TYPE_CHECKING:
    from fewshot_bench.cli.groups import LazyGroup

COMMANDS = {
    "adapt": "Choose and fit a method on your images, and keep the model.",
    "export": "Write a kept model as a torch or ONNX program.",
    "predict": "Classify images with a kept model.",
    "evaluate": "Measure a kept model on a data set's test images.",
    "app": "Open a page that classifies images with a kept model.",
    "push": "Put a kept model on a hub.",
}


@hookimpl
def register_commands(cli: LazyGroup) -> None:
    """Add the commands by name; their modules are imported on first use."""
    for name, text in COMMANDS.items():
        cli.add_lazy(name, f"fewshot_bench.plugins.models.commands:{name}", text, "models")
