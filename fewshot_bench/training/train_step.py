"""`TrainStep`: forward pass, backward pass and optimizer step on a batch, as one object.

Methods get one from `RunContext.train_step` or `RunContext.train_step_by`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class TrainStep:
    """One step of training: gradients of a batch, then the optimizer; does not wait for the device.

    >>> step = TrainStep(step_on(loss), optimizer, ctx.scaler())
    >>> step(features, labels, rate=cosine(self.lr, done, total))
    """

    def __init__(
        self,
        backward: Callable[..., None],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        max_norm: float = 0.0,
    ) -> None:
        """backward: called with a batch and `scale`; adds the gradients of its scaled losses.

        max_norm: bound on the total gradient norm (clipping); 0 for none.
        """
        self._backward = backward
        self._optimizer = optimizer
        self._scaler = scaler
        self._max_norm = max_norm

    def __call__(self, *batch: Tensor, rate: float | None = None) -> None:
        """Take a step on a batch; rate: the learning rate of all groups, None to leave it."""
        if rate is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
        self._step(batch)

    def restart(self) -> None:
        """Declare that the next step does other work than the last one."""

    def _step(self, batch: Sequence[Tensor]) -> None:
        optimizer, scaler = self._optimizer, self._scaler
        optimizer.zero_grad(set_to_none=True)
        self._backward(*batch, scaler.scale)
        if self._max_norm:
            scaler.unscale_(optimizer)
            every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            gradients = [parameter.grad for parameter in every if parameter.grad is not None]
            _clip(gradients, self._max_norm)
        scaler.step(optimizer)
        scaler.update()


def step_on(loss: Callable[..., Tensor]) -> Callable[..., None]:
    """The backward pass of `loss`, a function of the tensors of a batch that returns a scalar.

    >>> backward = step_on(lambda features, labels: F.cross_entropy(features @ weights.T, labels))
    """

    def backward(*batch_and_scale: Tensor | Callable[[Tensor], Tensor]) -> None:
        *batch, scale = batch_and_scale
        torch.autograd.backward(scale(loss(*batch)))  # type: ignore[operator]

    return backward


def _clip(gradients: list[Tensor], max_norm: float) -> None:
    """Clip the total norm of gradients, as torch.nn.utils.clip_grad_norm_ does.

    Unlike that function, it moves no number between devices.
    """
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
