"""Muon: momentum whose matrix is made orthogonal before each step. Here in float32, for CPUs."""

from __future__ import annotations

import torch


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for the hidden matrices of a network.

    PyTorch has one too, which works in bfloat16: ten times slower on a CPU without units for it. The scale of a step,
    0.2 √max(shape), lets it share AdamW's learning rate (Liu et al. 2025, arXiv 2502.16982).

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
        Matrices only.
    lr : float
        Learning rate.
    momentum, weight_decay : float
        Nesterov momentum, and decoupled decay.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                mean = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(mean, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal factor of a matrix: five Newton-Schulz steps bring its singular values close to 1."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
