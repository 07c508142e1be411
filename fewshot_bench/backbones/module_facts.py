"""What an open_clip model and its transform say about themselves."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewshot_bench.utils.errors import ContractError


def split_transform(transform: Any, name: str) -> tuple[list[Any], list[float], list[float]]:
    """The PIL steps of an open_clip transform, and the mean and std of its last step."""
    from torchvision.transforms import Normalize, ToTensor

    steps = list(transform.transforms)
    if not isinstance(steps[-2], ToTensor) or not isinstance(steps[-1], Normalize):
        raise ContractError(
            f"{name}: expected the transform to end in ToTensor and Normalize, got {steps[-2:]}"
        )
    return steps[:-2], list(steps[-1].mean), list(steps[-1].std)


def activation_name(module: nn.Module) -> str:
    """The class names of its activations."""
    names = {type(child).__name__ for child in module.modules() if "GELU" in type(child).__name__}
    return "+".join(sorted(names)) or "other"
