"""Methods that are slow or whose training diverges."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench import Backbone, RunContext, Task

from .scoring import Scores, scores


@dataclass(frozen=True)
class Slow:
    """Takes its time, so that a signal finds it at work."""

    name: ClassVar[str] = "slow"
    seconds: float = 0.2

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Report progress while waiting.

        FSBENCH_TEST_FITS: a file to which every fit appends a line. FSBENCH_TEST_ENDING: how many
        of those fits end, or an absolute path of a file that holds this number; the others run
        until a signal ends them.
        """
        number = 0
        if "FSBENCH_TEST_FITS" in os.environ:
            with open(os.environ["FSBENCH_TEST_FITS"], "a", encoding="utf-8") as log:
                log.write("fit\n")
                log.flush()
                number = log.tell() // len("fit\n")
        while number > _ending(number):
            time.sleep(0.05)
            ctx.progress(1, 10)
        for step in range(10):
            time.sleep(self.seconds / 10)
            ctx.progress(step + 1, 10)
        return scores(task, backbone)


def _ending(number: int) -> int:
    """Number of fits that may end now; by default all."""
    text = os.environ.get("FSBENCH_TEST_ENDING", str(number))
    if os.path.isabs(text):
        with open(text, encoding="utf-8") as file:
            text = file.read()
    # A file that is just being written may be empty.
    return int(text or 0)


@dataclass(frozen=True)
class Diverging:
    """Trains a bias, well enough until step `at`, and looks at no loss itself."""

    name: ClassVar[str] = "diverging"
    how: Literal["nan", "inf", "gradient", "by-hand", "lbfgs", "summed", "never"] = "nan"
    at: int = 3
    steps: int = 6
    lr: float = 0.5

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Run all steps, whatever happens."""
        bias = torch.nn.Parameter(torch.ones(len(task.classnames), device=backbone.device))
        optimizer: Any = torch.optim.SGD([bias], lr=self.lr)
        if self.how == "lbfgs":
            optimizer = torch.optim.LBFGS([bias], lr=self.lr, max_iter=1)
        for step in range(1, self.steps + 1):

            def closure(step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = self._loss(bias, step == self.at)
                if self.how == "by-hand":
                    (bias.grad,) = torch.autograd.grad(loss, bias)
                elif self.how == "summed":
                    (0.5 * loss).backward()
                    (0.5 * loss.detach() + 0 * bias.sum()).backward()
                else:
                    loss.backward()
                return loss

            if self.how == "lbfgs":
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            ctx.progress(step, self.steps)
        return scores(task, backbone)

    def _loss(self, bias: Tensor, now: bool) -> Tensor:
        loss = bias.square().sum()
        if not now or self.how == "never":
            return loss
        if self.how == "inf":
            return loss + float("inf")
        if self.how == "gradient":
            return loss + (0 * bias).sqrt().sum()
        return loss * float("nan")
