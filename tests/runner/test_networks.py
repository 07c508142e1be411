"""Networks besides the encoders: a record does not state the work of a cell that ran one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from fewshot_bench.training import LinearClassifier


def resnet(pixels, features):
    from torchvision.models import resnet18

    return resnet18(weights=None).eval()(pixels)


def convolutions(pixels, features):
    for _ in range(3):
        width = pixels.shape[1]
        pixels = F.conv2d(pixels, torch.ones(64, width, 3, 3), padding=1).relu()


def early(pixels, features):
    return torch.conv2d(pixels, weight=torch.ones(64, 3, 7, 7))


def mlp(pixels, features):
    wide = [nn.Linear(features.shape[1], 2048), nn.ReLU(), nn.Linear(2048, 2048)]
    return nn.Sequential(*wide)(features)


def tower(pixels, features):
    block = nn.TransformerEncoderLayer(256, 4, batch_first=True).train()
    patches = nn.Conv2d(3, 256, 4, 4)(pixels).flatten(2).mT
    return block(patches)


def transformer(pixels, features):
    block = nn.TransformerEncoderLayer(256, 4, batch_first=True).eval()
    with torch.no_grad():
        block(pixels.flatten(2).mT.repeat(1, 1, 86)[..., :256])


def scripted(pixels, features):
    torch.jit.trace(nn.Conv2d(3, 64, 7), pixels)(pixels)


def recurrent(pixels, features):
    nn.LSTM(3, 256, batch_first=True)(pixels.flatten(2).mT)


def head(pixels, features):
    return nn.Linear(features.shape[1], 10)(features)


def adapter(pixels, features):
    width = features.shape[1]
    return nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width))(
        features
    )


def cache(pixels, features):
    return (features @ features.T).exp() @ features


FUNCTIONS = (resnet, convolutions, early, mlp, tower, transformer, scripted, recurrent)
FUNCTIONS += (head, adapter, cache)
NETWORKS = {f.__name__: f for f in FUNCTIONS}


class Busy(LinearClassifier):
    network = None

    def logits(self, queries):
        if self.network:
            self.network(next(queries.batches(8)), queries.features)
        return super().logits(queries)


@dataclass(frozen=True)
class Second:
    """Has another network."""

    name: ClassVar[str] = "second"
    network: str = "fit none"

    def fit(self, task, backbone, ctx):
        when, _, name = self.network.partition(" ")
        network = NETWORKS.get(name)
        with torch.random.fork_rng():
            if network and when == "fit":
                network(next(task.train.batches(8)), task.train.features)
        classifier = Busy(backbone.logit_scale * backbone.class_features(task))
        if when == "logits":
            classifier.network = network
        return classifier
'''
HEADS = ("none", "head", "adapter", "cache")
LAYERS = ("resnet", "convolutions", "early", "mlp", "tower")
NETWORKS = (*LAYERS, "transformer", "scripted", "recurrent")
UNKNOWN = {"images": None, "text_tokens": None, "flops": None}


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_networks_are_stated_and_heads_are_not(tmp_path: Path) -> None:
    file = tmp_path / "second.py"
    file.write_text(METHOD, encoding="utf-8")
    asked = [f"logits {name}" for name in HEADS + NETWORKS] + ["fit head", "fit resnet"]
    few: dict[str, Any] = {"shots": 2, "seeds": 1, "limit": 20, "progress": False}
    done = fb.run(
        f"{file}:Second",
        "digits",
        options={"network": asked},
        engine="here",
        store=tmp_path / "store",
        **few,
    )
    found = {record.spec.options["network"]: record.footprint for record in done}
    assert set(found) == set(asked)
    metered = {how: footprint["metered"] for how, footprint in found.items()}
    assert metered == {how: how.split()[1] in HEADS for how in asked}
    for how, footprint in found.items():
        if not metered[how]:
            assert footprint["work"]["billed"] == UNKNOWN
