"""Local checkpoints: the file that open_clip reads in a folder, and files that it would misread.

open_clip computes with random weights where a folder has none, and stretches position embeddings
of another image size or context. Both run, and give wrong numbers; here, they are refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fewshot_bench.utils.errors import DataMissingError, UsageError

# Suffixes of weights that open_clip finds in a folder, and the names that it prefers, in its order.
SUFFIXES = (".safetensors", ".bin", ".pth")
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
POINTER = b"version https://git-lfs"
# Numbers of a model that OpenAI's files hold beside its weights.
FACTS = ("input_resolution", "context_length", "vocab_size")


def checkpoint_in(folder: Path) -> Path:
    """The weights that open_clip reads in a folder.

    DataMissingError if there are none, UsageError if nothing says which of several are meant.
    """
    files = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}
    for name in PREFERRED:
        if name in files:
            return files[name]
    if len(files) == 1:
        return next(iter(files.values()))
    if files:
        raise UsageError(
            f"backbone folder {folder} has the weights {', '.join(files)}: expected one file, or "
            f"one that is named {PREFERRED[0]}"
        )
    raise DataMissingError(
        f"backbone folder {folder} has no weights: expected a file *{', *'.join(SUFFIXES)} beside "
        f"the config, as open_clip writes it ({PREFERRED[0]})"
    )


def check_file(file: Path) -> None:
    """DataMissingError for a file that is no checkpoint, or one that is not opened."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(POINTER))
    except OSError as error:
        raise DataMissingError(
            f"backbone file {file} cannot be read: {error.strerror}; check its rights"
        ) from None
    if not start:
        raise DataMissingError(f"backbone file {file} is empty: fetch it again")
    if start == POINTER:
        raise DataMissingError(
            f"backbone file {file} is a pointer of Git LFS, not the weights: fetch them "
            "(git lfs pull)"
        )
    if _is_script(file):
        raise DataMissingError(
            f"backbone file {file} is a TorchScript archive, as OpenAI publishes them; it "
            "contains code, and is not opened: save its tensors once, where you trust it "
            f"(python -c \"import torch; torch.save(torch.jit.load('{file}', 'cpu')"
            f".state_dict(), '{file.stem}-tensors.pt')\")"
        )


def _is_script(file: Path) -> bool:
    """True for a TorchScript archive; False for any other file, damaged archives included."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:
        return False


def check_positions(state: Mapping[str, Any], model: Any, file: Path, name: str) -> None:
    """UsageError if a file's weights are for images of another size, or for other contexts."""
    own = dict(model.named_parameters())
    for what, keys in (
        ("image", ("visual.positional_embedding",)),
        ("text", ("positional_embedding", "text.positional_embedding")),
    ):
        there, here = next(_lengths(state, keys), None), next(_lengths(own, keys), None)
        if None not in (there, here) and there != here:
            raise UsageError(
                f"backbone '{name}': {file.name} has positions for {there} tokens of its {what} "
                f"encoder, the model has {here}: name the model that was trained with this image "
                "size and context (fsbench list backbones)"
            )


def _lengths(tensors: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[int]:
    tables = (tensors.get(key) for key in keys)
    return (len(tensor) for tensor in tables if isinstance(tensor, Tensor) and tensor.ndim == 2)
